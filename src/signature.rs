//! Signatures built at run time, for the frame lane.

use crate::abi::{self, Prototype};
use crate::convention::Convention;
use crate::error::SignatureError;
use crate::types::{MAX_BYTES, MAX_PARAMETERS, Type};

/// What a callback takes and returns, as known at run time.
///
/// ```
/// use calltable::{Convention, Signature, SignatureError, Type};
///
/// // BOOL CALLBACK EnumWindowsProc(HWND window, LPARAM parameter)
/// let signature = Signature::new(Convention::NATIVE, &[Type::Pointer, Type::ISIZE], Some(Type::I32))?;
/// assert_eq!(signature.convention(), Convention::NATIVE);
/// assert_eq!(signature.parameters(), [Type::Pointer, Type::ISIZE]);
/// assert_eq!(signature.result(), Some(Type::I32));
/// assert!(!signature.is_method());
/// # Ok::<(), SignatureError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    convention: Convention,
    is_method: bool,
    is_variadic: bool,
    parameters: heapless::Vec<Type, MAX_PARAMETERS>,
    result: Option<Type>,
    /// Follows from the others; each access to an argument wants it.
    has_hidden_result: bool,
}

impl Signature {
    /// Describes a function, or a method whose result is no structure. `result` is `None` if it returns nothing.
    ///
    /// ```
    /// use calltable::{Convention, Signature, SignatureError, Type};
    ///
    /// // void f(int, struct { char bytes[24]; })
    /// let signature = Signature::new(Convention::C, &[Type::I32, Type::Struct { size: 24 }], None)?;
    /// assert_eq!(signature.result(), None);
    /// let many = [Type::I32; 256];
    /// let error = Signature::new(Convention::C, &many, None).unwrap_err();
    /// assert_eq!(error, SignatureError::TooManyParameters { parameters: 256 });
    /// # Ok::<(), SignatureError>(())
    /// ```
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn new(convention: Convention, parameters: &[Type], result: Option<Type>) -> Result<Self, SignatureError> {
        Self::empty(convention, false, result)?.with(parameters)
    }

    /// Describes an instance method of C++ by Microsoft's rule, as the methods of COM are: a result that is a
    /// structure, whatever its size, comes through a hidden pointer that follows `this`, which is the first of
    /// `parameters`. Source: "Return values", x64 calling convention, Microsoft C++ documentation. (C++ of MinGW, by
    /// GCC or Clang, treats a method as a function whose first parameter is `this`: describe its methods by
    /// [`Self::new`].)
    ///
    /// ```
    /// use calltable::{Convention, Signature, SignatureError, Type};
    ///
    /// // D2D1_SIZE_U ID2D1RenderTarget::GetPixelSize()
    /// let convention = Convention::NATIVE;
    /// # let convention = if cfg!(target_arch = "x86") { Convention::Stdcall } else { convention };
    /// let signature = Signature::method(convention, &[Type::Pointer], Some(Type::Struct { size: 8 }))?;
    /// assert!(signature.is_method());
    /// # Ok::<(), SignatureError>(())
    /// ```
    ///
    /// # Errors
    /// [`SignatureError::NotAMethod`] without a pointer as the first parameter, or for [`Convention::Sysv`], which has
    /// no such methods; and as for [`Self::new`].
    pub fn method(convention: Convention, parameters: &[Type], result: Option<Type>) -> Result<Self, SignatureError> {
        Self::empty(convention, true, result)?.with(parameters)
    }

    /// Describes a variadic function, such as `printf`, for the frame lane: `parameters` are those that it names, and
    /// [`Frame::rest`](crate::Frame::rest) reads what follows them, or hands it to a function that takes a `va_list`.
    /// The convention is [`Convention::C`], on i686 [`Convention::Cdecl`] for Windows code.
    ///
    /// On AArch64 Windows the parameters, too, come in other places than those of other functions. A structure is not
    /// described there if it has 9 to 16 bytes or is [homogeneous](Type::Homogeneous): give one of up to 8 bytes as
    /// [`Type::Struct`], and of others two [`Type::U64`].
    ///
    /// ```
    /// use calltable::{Convention, Signature, SignatureError, Type};
    ///
    /// // int fprintf(FILE *, const char *, ...)
    /// let signature = Signature::variadic(Convention::C, &[Type::Pointer; 2], Some(Type::I32))?;
    /// assert!(signature.is_variadic());
    /// # Ok::<(), SignatureError>(())
    /// ```
    ///
    /// # Errors
    /// [`SignatureError::NotVariadic`] for other conventions of i686, and as for [`Self::new`].
    pub fn variadic(convention: Convention, parameters: &[Type], result: Option<Type>) -> Result<Self, SignatureError> {
        let mut signature = Self::empty(convention, false, result)?;
        signature.set_variadic();
        signature.with(parameters)
    }

    /// More arguments may follow; to be said before [`Self::check`].
    #[doc(hidden)]
    pub fn set_variadic(&mut self) {
        self.is_variadic = true;
    }

    /// No parameter yet; for [`Self::push`] and [`Self::check`].
    #[doc(hidden)]
    pub fn empty(convention: Convention, is_method: bool, result: Option<Type>) -> Result<Self, SignatureError> {
        if !convention.is_available() {
            return Err(SignatureError::ConventionUnavailable(convention));
        }
        if let Some(ty) = result {
            check_type(ty, None)?;
        }
        let has_hidden_result = abi::has_hidden_result(convention, is_method, result);
        let parameters = heapless::Vec::new();
        Ok(Self { convention, is_method, is_variadic: false, parameters, result, has_hidden_result })
    }

    fn with(mut self, parameters: &[Type]) -> Result<Self, SignatureError> {
        if parameters.len() > MAX_PARAMETERS {
            return Err(SignatureError::TooManyParameters { parameters: parameters.len() });
        }
        parameters.iter().try_for_each(|ty| self.push(*ty))?;
        self.check()?;
        Ok(self)
    }

    /// One parameter more.
    #[doc(hidden)]
    pub fn push(&mut self, ty: Type) -> Result<(), SignatureError> {
        let index = self.parameters.len();
        check_type(ty, Some(index))?;
        self.parameters.push(ty).map_err(|_| SignatureError::TooManyParameters { parameters: index + 1 })
    }

    /// To be asked when all parameters are there.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), SignatureError> {
        let is_method = self.parameters.first() == Some(&Type::Pointer) && self.convention != Convention::Sysv;
        if self.is_method && !is_method {
            return Err(SignatureError::NotAMethod);
        }
        if self.is_variadic {
            if self.is_method || !abi::is_variadic_available(self.convention, None) {
                return Err(SignatureError::NotVariadic(self.convention));
            }
            let is_available = |ty: &Type| abi::is_variadic_available(self.convention, Some(*ty));
            if let Some(index) = self.parameters.iter().position(|ty| !is_available(ty)) {
                return Err(SignatureError::TypeUnavailable { parameter: Some(index) });
            }
        }
        let bytes = abi::bytes_of_arguments(&self.prototype());
        if bytes > MAX_BYTES { Err(SignatureError::TooManyBytes { bytes }) } else { Ok(()) }
    }

    /// How the foreign code calls. Example: [`Self`].
    #[must_use]
    pub fn convention(&self) -> Convention {
        self.convention
    }

    /// Whether it is a [method](Self::method). Example: [`Self`].
    #[must_use]
    pub fn is_method(&self) -> bool {
        self.is_method
    }

    /// Whether it is [variadic](Self::variadic), which has an example.
    #[must_use]
    pub fn is_variadic(&self) -> bool {
        self.is_variadic
    }

    /// The parameters, in order. Example: [`Self`].
    #[must_use]
    #[inline]
    pub fn parameters(&self) -> &[Type] {
        &self.parameters
    }

    /// The result, if there is one. Example: [`Self`].
    #[must_use]
    #[inline]
    pub fn result(&self) -> Option<Type> {
        self.result
    }

    /// What the convention cares about.
    #[inline]
    pub(crate) fn prototype(&self) -> Prototype<'_> {
        let Self { convention, is_method, is_variadic, ref parameters, result, has_hidden_result } = *self;
        Prototype { convention, is_method, is_variadic, parameters, result, has_hidden_result }
    }

    /// Whether the caller passes memory for the result as a hidden argument.
    #[inline]
    pub(crate) fn has_hidden_result(&self) -> bool {
        self.has_hidden_result
    }

    /// The number of parameters that come before that argument.
    #[inline]
    pub(crate) fn before_hidden_result(&self) -> usize {
        self.prototype().before_hidden_result()
    }
}

fn check_type(ty: Type, parameter: Option<usize>) -> Result<(), SignatureError> {
    match ty {
        Type::Homogeneous { count, .. } if !(1..=4).contains(&count) => {
            return Err(SignatureError::NoSuchStructure { parameter });
        }
        Type::Aligned { size } if size % 16 != 0 => return Err(SignatureError::NoSuchStructure { parameter }),
        _ if ty.size() == 0 => return Err(SignatureError::ZeroSized { parameter }),
        _ => {}
    }
    if !abi::is_type_available(ty, parameter.is_none()) {
        return Err(SignatureError::TypeUnavailable { parameter });
    }
    Ok(())
}
