//! Closures by the four functions alone, without libffi: what its own tests do not ask (suite `libffi` of `cargo xtask
//! test` runs those).

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use calltable_libffi::types::{Cif, Closure, Status, Type, kind};
use calltable_libffi::{ffi_closure_alloc, ffi_closure_free, ffi_prep_closure, ffi_prep_closure_loc};

/// That of the callbacks below, which are `extern "efiapi"`.
const ABI: c_uint = if cfg!(target_arch = "x86_64") {
    if cfg!(windows) { 1 } else { 3 } // FFI_WIN64
} else if cfg!(all(target_arch = "x86", windows)) {
    5 // FFI_MS_CDECL
} else {
    1 // FFI_SYSV
};

fn number(kind: u16, size: usize) -> Type {
    Type { size, alignment: size as u16, kind, elements: null_mut() }
}

/// A call interface, and the types that it points to.
struct Interface {
    cif: Cif,
    _types: (Box<Type>, Vec<Type>, Vec<*mut Type>),
}

impl Interface {
    fn new(abi: c_uint, result: Type, mut parameters: Vec<Type>) -> Self {
        let mut result = Box::new(result);
        let mut list: Vec<_> = parameters.iter_mut().map(|ty| &raw mut *ty).collect();
        let cif = Cif {
            abi,
            nargs: list.len() as c_uint,
            arg_types: list.as_mut_ptr(),
            rtype: &raw mut *result,
            bytes: 0,
            flags: 0,
        };
        Self { cif, _types: (result, parameters, list) }
    }

    /// `int f(int, double)`
    fn int_of_int_and_double() -> Self {
        Self::new(ABI, number(kind::SINT32, 4), vec![number(kind::SINT32, 4), number(kind::DOUBLE, 8)])
    }
}

type Code = unsafe extern "efiapi" fn(c_int, f64) -> c_int;

/// One test at a time: they share the table, which one of them fills.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn alloc() -> (*mut Closure, *mut c_void) {
    let mut code = null_mut();
    // SAFETY: `code` is writable.
    let closure = unsafe { ffi_closure_alloc(size_of::<Closure>(), &raw mut code) };
    assert!(!closure.is_null() && !code.is_null());
    (closure.cast(), code)
}

fn call(code: *mut c_void, a: c_int, b: f64) -> c_int {
    // SAFETY: each closure that this is called for is such a function.
    unsafe { std::mem::transmute::<*mut c_void, Code>(code)(a, b) }
}

/// Writes a whole register, as libffi wants it.
unsafe extern "C-unwind" fn add(_: *mut Cif, result: *mut c_void, arguments: *mut *mut c_void, data: *mut c_void) {
    // SAFETY: the interface says so.
    unsafe {
        let (a, b) = ((*arguments).cast::<c_int>().read(), (*arguments.add(1)).cast::<f64>().read());
        let sum = a as isize + b as isize + data.addr() as isize;
        result.cast::<isize>().write(sum);
    }
}

#[test]
fn code_pointer_stays_valid_through_prep_and_through_another_one() {
    let _turn = turn();
    let (closure, code) = alloc();
    let mut interface = Interface::int_of_int_and_double();
    for data in [100, 200] {
        // SAFETY: the interface lives as long as the closure, and nobody else calls it.
        let status = unsafe {
            ffi_prep_closure_loc(closure, &raw mut interface.cif, Some(add), without_provenance_mut(data), code)
        };
        assert_eq!(status, Status::Ok as c_int);
        assert_eq!(call(code, -7, 2.5), data as c_int - 5);
        // SAFETY: it is there.
        let seen = unsafe { ((*closure).cif, (*closure).user_data) };
        assert_eq!(seen, (&raw mut interface.cif, without_provenance_mut(data)), "the fields that ffi.h declares");
    }
    // SAFETY: as above; the deprecated function knows the code of its closure.
    let status = unsafe { ffi_prep_closure(closure, &raw mut interface.cif, Some(add), without_provenance_mut(1)) };
    assert_eq!((status, call(code, 1, 1.0)), (0, 3));
    // SAFETY: it is not used any more.
    unsafe { ffi_closure_free(closure.cast()) };
}

#[test]
fn closure_may_free_itself_and_prepare_itself() {
    let _turn = turn();
    unsafe extern "C-unwind" fn last(_: *mut Cif, result: *mut c_void, _: *mut *mut c_void, closure: *mut c_void) {
        // SAFETY: the data is the closure itself, which nobody uses after this call.
        unsafe {
            ffi_closure_free(closure);
            // One of them gets the memory that was the closure's.
            let others: Vec<_> = (1500..4000).step_by(16).map(|size| vec![0xcc_u8; size]).collect();
            result.cast::<isize>().write(-3);
            drop(others);
        }
    }
    unsafe extern "C-unwind" fn first(
        cif: *mut Cif,
        result: *mut c_void,
        arguments: *mut *mut c_void,
        closure: *mut c_void,
    ) {
        // SAFETY: the data is the closure itself, and its arguments are where they were.
        unsafe {
            assert_eq!(ffi_prep_closure(closure.cast(), cif, Some(last), closure), 0);
            result.cast::<isize>().write((*arguments).cast::<c_int>().read() as isize);
        }
    }
    let (closure, code) = alloc();
    let mut interface = Interface::int_of_int_and_double();
    // SAFETY: as above.
    let status = unsafe { ffi_prep_closure_loc(closure, &raw mut interface.cif, Some(first), closure.cast(), code) };
    assert_eq!(status, 0);
    assert_eq!((call(code, 42, 0.0), call(code, 42, 0.0)), (42, -3));
}

#[test]
fn what_has_no_place_is_refused_and_changes_nothing() {
    let _turn = turn();
    let (closure, code) = alloc();
    let mut interface = Interface::int_of_int_and_double();
    let data = without_provenance_mut(5);
    // SAFETY: as above, for all that follow; of a refused one nothing is used.
    unsafe {
        let prepare = |closure: *mut Closure, cif: &mut Cif, code| {
            ffi_prep_closure_loc(closure, &raw mut *cif, Some(add), data, code)
        };
        assert_eq!(prepare(closure, &mut interface.cif, code), 0);
        let bad_abi = Status::BadAbi as c_int;
        for abi in [0, 2, 6, 7, 255] {
            if abi == 2 && !cfg!(all(target_arch = "x86_64", unix)) {
                continue; // FFI_UNIX64 there, else one of ours
            }
            let mut other = Interface::new(abi, number(kind::VOID, 1), vec![]);
            assert_eq!(prepare(closure, &mut other.cif, code), bad_abi, "ABI {abi}");
        }
        let mut odd = Interface::new(ABI, number(kind::SINT32, 3), vec![]);
        assert_eq!(prepare(closure, &mut odd.cif, code), Status::BadTypedef as c_int);

        let mut elsewhere = std::mem::zeroed::<[Closure; 100]>();
        let own = &raw mut elsewhere[99];
        assert_eq!(prepare(own, &mut interface.cif, code), bad_abi, "memory from elsewhere");
        assert_eq!(prepare(closure, &mut interface.cif, closure.cast()), bad_abi, "no code of this closure");
        let (other, other_code) = alloc();
        assert_eq!(prepare(closure, &mut interface.cif, other_code), bad_abi, "the code of another one");
        assert_eq!(ffi_prep_closure(own, &raw mut interface.cif, Some(add), data), bad_abi);
        ffi_closure_free(other.cast());

        assert_eq!(call(code, 1, 2.0), 8);
        ffi_closure_free(closure.cast());
        ffi_closure_free(null_mut());
        assert!(ffi_closure_alloc(0, null_mut()).is_null());
    }
}

#[test]
fn full_table_gives_null_until_one_is_freed() {
    let _turn = turn();
    let mut all = vec![];
    let mut code = null_mut();
    // SAFETY: as above.
    unsafe {
        loop {
            let closure = ffi_closure_alloc(size_of::<Closure>() + 1000, &raw mut code);
            if closure.is_null() {
                break;
            }
            closure.cast::<u8>().add(size_of::<Closure>()).write_bytes(0xcc, 1000); // it is ours
            all.push(closure);
        }
        assert_eq!(all.len(), calltable_libffi::CAPACITY);
        all.drain(..).for_each(|closure| ffi_closure_free(closure));
    }
    let (closure, _) = alloc();
    // SAFETY: as above.
    unsafe { ffi_closure_free(closure.cast()) };
}

/// A small result comes as a register has it: with its sign.
#[test]
fn results_of_each_size() {
    let _turn = turn();
    unsafe extern "C-unwind" fn give(_: *mut Cif, result: *mut c_void, _: *mut *mut c_void, data: *mut c_void) {
        // SAFETY: there is room for a register.
        unsafe { result.cast::<usize>().write(data.addr()) };
    }
    let (closure, code) = alloc();
    for (kind, size, given, want) in [
        (kind::SINT8, 1, 0x1_80, -0x80),
        (5, 1, 0x1_80, 0x80), // FFI_TYPE_UINT8
        (kind::SINT16, 2, 0x1_8000, -0x8000),
        (7, 2, 0x1_8000, 0x8000),
        (kind::SINT32, 4, 0x8000_0000, i64::from(i32::MIN)),
        (kind::SINT64, 8, 0x7fff_ffff, 0x7fff_ffff),
    ] {
        let mut interface = Interface::new(ABI, number(kind, size), vec![]);
        // SAFETY: as above. EAX or RAX is looked at as a whole, of smaller ones the lower half.
        unsafe {
            let data = without_provenance_mut(given);
            assert_eq!(ffi_prep_closure_loc(closure, &raw mut interface.cif, Some(give), data, code), 0);
            let result = if size == 8 {
                std::mem::transmute::<*mut c_void, unsafe extern "efiapi" fn() -> i64>(code)()
            } else {
                std::mem::transmute::<*mut c_void, unsafe extern "efiapi" fn() -> i32>(code)().into()
            };
            assert_eq!(result, want, "kind {kind}");
        }
    }
    // SAFETY: as above.
    unsafe { ffi_closure_free(closure.cast()) };
}

#[test]
fn exceptions_pass() {
    let _turn = turn();
    unsafe extern "C-unwind" fn throw(_: *mut Cif, _: *mut c_void, _: *mut *mut c_void, _: *mut c_void) {
        std::panic::panic_any(7_u8);
    }
    let (closure, code) = alloc();
    let mut interface = Interface::int_of_int_and_double();
    // SAFETY: as above.
    unsafe {
        assert_eq!(ffi_prep_closure_loc(closure, &raw mut interface.cif, Some(throw), null_mut(), code), 0);
    }
    let code = code.addr();
    let caught = std::panic::catch_unwind(|| {
        #[cfg(target_arch = "x86_64")]
        type Code = unsafe extern "win64-unwind" fn(c_int, f64) -> c_int;
        #[cfg(target_arch = "x86")]
        type Code = unsafe extern "cdecl-unwind" fn(c_int, f64) -> c_int;
        #[cfg(target_arch = "aarch64")]
        type Code = unsafe extern "C-unwind" fn(c_int, f64) -> c_int;
        // SAFETY: it is the closure's code.
        unsafe { std::mem::transmute::<usize, Code>(code)(1, 2.0) }
    });
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&7_u8));
    // SAFETY: as above.
    unsafe { ffi_closure_free(closure.cast()) };
}

/// Of 300 arguments each is where the foreign code has put it.
#[test]
fn any_number_of_arguments() {
    let _turn = turn();
    unsafe extern "C-unwind" fn count(cif: *mut Cif, result: *mut c_void, arguments: *mut *mut c_void, _: *mut c_void) {
        // SAFETY: the interface says so.
        unsafe {
            let is_right = |index: &usize| (*arguments.add(*index)).cast::<usize>().read() == 3 * index;
            result.cast::<usize>().write((0..(*cif).nargs as usize).filter(is_right).count());
        }
    }
    macro_rules! word {
        ($index:literal) => {
            usize
        };
    }
    macro_rules! call {
        ($code:ident $($index:literal)*) => {{
            type Many = unsafe extern "efiapi" fn($(word!($index)),*) -> usize;
            std::mem::transmute::<*mut c_void, Many>($code)($(3 * $index),*)
        }};
    }
    let (closure, code) = alloc();
    let word = || number(if size_of::<usize>() == 8 { kind::UINT64 } else { kind::SINT32 }, size_of::<usize>());
    let mut interface = Interface::new(ABI, word(), (0..300).map(|_| word()).collect());
    // SAFETY: as above.
    unsafe {
        assert_eq!(ffi_prep_closure_loc(closure, &raw mut interface.cif, Some(count), null_mut(), code), 0);
    }
    #[rustfmt::skip]
    // SAFETY: the interface has that many.
    let seen = unsafe { call! { code
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37
        38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72
        73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105
        106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127 128 129 130 131
        132 133 134 135 136 137 138 139 140 141 142 143 144 145 146 147 148 149 150 151 152 153 154 155 156 157
        158 159 160 161 162 163 164 165 166 167 168 169 170 171 172 173 174 175 176 177 178 179 180 181 182 183
        184 185 186 187 188 189 190 191 192 193 194 195 196 197 198 199 200 201 202 203 204 205 206 207 208 209
        210 211 212 213 214 215 216 217 218 219 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235
        236 237 238 239 240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258 259 260 261
        262 263 264 265 266 267 268 269 270 271 272 273 274 275 276 277 278 279 280 281 282 283 284 285 286 287
        288 289 290 291 292 293 294 295 296 297 298 299
    } };
    assert_eq!(seen, 300);
    // SAFETY: as above.
    unsafe { ffi_closure_free(closure.cast()) };
}

/// Windows code passes a floating-point number to a variadic function in an integer register.
#[cfg(target_arch = "aarch64")]
#[test]
fn variadic_functions_of_windows() {
    let _turn = turn();
    unsafe extern "C-unwind" fn number_of_bits(
        _: *mut Cif,
        result: *mut c_void,
        arguments: *mut *mut c_void,
        _: *mut c_void,
    ) {
        // SAFETY: the interface says so.
        unsafe { result.cast::<u64>().write((*arguments).cast::<u64>().read()) };
    }
    type Code = unsafe extern "C" fn(u64, f64) -> u64;
    let (closure, code) = alloc();
    let (windows, variadic) = (2, 1 << 8); // FFI_WIN64, AARCH64_FLAG_VARARG
    for (abi, flags, is_integer) in [(windows, variadic, true), (windows, 0, false), (1, variadic, false)] {
        let mut interface = Interface::new(abi, number(kind::UINT64, 8), vec![number(kind::DOUBLE, 8)]);
        interface.cif.flags = flags;
        let function = Some(number_of_bits as calltable_libffi::types::Function);
        // SAFETY: as above; both registers have a number.
        let seen = unsafe {
            assert_eq!(ffi_prep_closure_loc(closure, &raw mut interface.cif, function, null_mut(), code), 0);
            std::mem::transmute::<*mut c_void, Code>(code)(42, 1.5)
        };
        assert_eq!(seen, if is_integer { 42 } else { 1.5_f64.to_bits() }, "ABI {abi}, flags {flags}");
    }
    // SAFETY: it is not used any more.
    unsafe { ffi_closure_free(closure.cast()) };
}
