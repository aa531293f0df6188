//! How a callback is registered.

use crate::error::Error;
use crate::name::Name;
#[cfg(feature = "alloc")]
use crate::table::SlotId;
use crate::table::{self, Binding, SlotKey};

/// How to register: what [`Callback::from_ref_with`](crate::Callback::from_ref_with) and the like take.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Options {
    tracked: bool,
    framed: bool,
    keeping_x18: bool,
    no_wait: bool,
    name: Name,
}

impl Options {
    /// Not tracked; waits for the table's lock. The constructors without options do the same.
    ///
    /// ```
    /// use calltable::{Callback, Options};
    ///
    /// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(Options::new(), &|| 42)?;
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { callback.code()() }, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    pub const fn new() -> Self {
        Self { tracked: false, framed: false, keeping_x18: false, no_wait: false, name: Name::NONE }
    }

    /// Counts the calls that are running, so that a drop waits until there are none. What that costs a call, and what
    /// it does not cover: [`Binding::tracked`].
    ///
    /// ```
    /// use calltable::{Callback, Options, table};
    ///
    /// let options = Options::new().tracked();
    /// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(options, &|| 42)?;
    /// let live = table::live_slot(callback.slot().index()).unwrap();
    /// assert_eq!(live.in_flight, Some(0)); // calls are counted; none is running
    /// drop(callback);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    pub const fn tracked(self) -> Self {
        Self { tracked: true, ..self }
    }

    /// On i686, has each call put a record of its own first in the chain of SEH handlers while the closure runs, as
    /// tracked callbacks have: [`Binding::framed`].
    ///
    /// ```
    /// use calltable::{Callback, Options};
    ///
    /// let options = Options::new().framed();
    /// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(options, &|| 42)?;
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { callback.code()() }, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    pub const fn framed(self) -> Self {
        Self { framed: true, ..self }
    }

    /// On AArch64, for callbacks that Windows code calls on another system: X18, where that code has its thread's
    /// block, is after each call what it was before. More: [`Binding::keeping_x18`].
    ///
    /// ```
    /// use calltable::{Callback, Options};
    ///
    /// let options = Options::new().keeping_x18();
    /// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(options, &|| 42)?;
    /// // SAFETY: the callback lives.
    /// assert_eq!(unsafe { callback.code()() }, 42);
    /// # Ok::<(), calltable::Error>(())
    /// ```
    pub const fn keeping_x18(self) -> Self {
        Self { keeping_x18: true, ..self }
    }

    /// What the registration is called in leak reports ([`table::list`]) and for calls after its end, with the feature
    /// `names`. Without it this changes nothing: more at [`Binding::named`].
    ///
    /// ```
    /// use calltable::{Callback, Options, table};
    ///
    /// let options = Options::new().named("the answer");
    /// let callback = Callback::<unsafe extern "efiapi" fn() -> i32>::from_ref_with(options, &|| 42)?;
    /// let name = table::live_slot(callback.slot().index()).unwrap().name;
    /// assert_eq!(name, if cfg!(feature = "names") { Some("the answer") } else { None });
    /// # Ok::<(), calltable::Error>(())
    /// ```
    pub const fn named(self, name: &'static str) -> Self {
        Self { name: Name::new(name), ..self }
    }

    /// Has the constructor fail with [`Error::Busy`] at once if the table's lock is taken; for interrupt handlers. A
    /// drop still waits: use [`Callback::try_release`](crate::Callback::try_release).
    ///
    /// ```
    /// use calltable::{Callback, Error, Options};
    ///
    /// type Answer = unsafe extern "efiapi" fn() -> i32;
    ///
    /// match Callback::<Answer>::from_ref_with(Options::new().no_wait(), &|| 42) {
    ///     // SAFETY: the callback lives.
    ///     Ok(callback) => assert_eq!(unsafe { callback.code()() }, 42),
    ///     Err(error) => assert_eq!(error, Error::Busy), // to be tried again in the next interrupt
    /// }
    /// ```
    pub const fn no_wait(self) -> Self {
        Self { no_wait: true, ..self }
    }

    pub(super) fn register(self, binding: Binding) -> Result<SlotKey, Error> {
        let binding = self.apply(binding);
        if self.no_wait { table::try_register(&binding) } else { table::register(&binding) }
    }

    /// The same; what is registered is told as what, before any call can come.
    #[cfg(feature = "alloc")]
    pub(super) fn register_as(self, binding: Binding, tell: impl FnOnce(SlotId)) -> Result<SlotKey, Error> {
        table::register_as(&self.apply(binding), self.no_wait, tell)
    }

    fn apply(self, binding: Binding) -> Binding {
        let binding = Binding { name: self.name, ..binding };
        let binding = if self.tracked { binding.tracked() } else { binding };
        let binding = if self.framed { binding.framed() } else { binding };
        if self.keeping_x18 { binding.keeping_x18() } else { binding }
    }
}
