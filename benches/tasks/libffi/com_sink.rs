//! A COM sink whose eight methods are closures: an `IAdviseSink`, which hears what becomes of a document.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::mem::transmute_copy;
use std::ptr::null_mut;

use libffi::high::{Closure1, Closure2, Closure3};
use windows_sys::Win32::Foundation::{E_NOINTERFACE, S_OK};
use windows_sys::Win32::System::Com::{FORMATETC, STGMEDIUM};
use windows_sys::Win32::System::Ole::CreateOleAdviseHolder;
use windows_sys::core::{GUID, HRESULT, IID_IUnknown};

type Object = *mut c_void;
type Count = unsafe extern "system" fn(Object) -> u32;

const IID_IADVISESINK: GUID = GUID::from_u128(0x0000010f_0000_0000_c000_000000000046);

fn is(a: &GUID, b: &GUID) -> bool {
    (a.data1, a.data2, a.data3, a.data4) == (b.data1, b.data2, b.data3, b.data4)
}

/// # Safety
/// `F` must be a type of function pointer.
unsafe fn address<F>(pointer: &F) -> *const c_void {
    // SAFETY: by the caller's promise.
    unsafe { transmute_copy(pointer) }
}

/// Lends `work` a sink that lists in `heard` what it is told. `work` gives back each reference that it takes.
fn with_sink(heard: &RefCell<Vec<String>>, work: impl FnOnce(Object)) {
    let references = Cell::new(1);
    let count = |by: i32| {
        references.set(references.get() + by);
        references.get() as u32
    };
    let hear = |what: &str| heard.borrow_mut().push(what.to_owned());
    let query_interface = |this: Object, wanted: *const GUID, found: *mut Object| {
        // SAFETY: COM passes the name of an interface, and a place for the object.
        let is_ours = unsafe { is(&*wanted, &IID_IUnknown) || is(&*wanted, &IID_IADVISESINK) };
        // SAFETY: as above.
        unsafe { found.write(if is_ours { this } else { null_mut() }) };
        count(is_ours.into());
        if is_ours { S_OK } else { E_NOINTERFACE }
    };
    let add_ref = |_: Object| count(1);
    let release = |_: Object| count(-1);
    let on_data_change = |_: Object, _: *const FORMATETC, _: *const STGMEDIUM| hear("data");
    let on_view_change = |_: Object, aspect: u32, _: i32| hear(&format!("view {aspect}"));
    let on_rename = |_: Object, _: Object| hear("name");
    let on_save = |_: Object| hear("saved");
    let on_close = |_: Object| hear("closed");
    let query_interface = Closure3::new(&query_interface);
    let add_ref = Closure1::new(&add_ref);
    let release = Closure1::new(&release);
    let on_data_change = Closure3::new(&on_data_change);
    let on_view_change = Closure3::new(&on_view_change);
    let on_rename = Closure2::new(&on_rename);
    let on_save = Closure1::new(&on_save);
    let on_close = Closure1::new(&on_close);
    // SAFETY: they are; and on x86_64 "system" is the same as "C".
    let methods = unsafe {
        [
            address(query_interface.code_ptr()),
            address(add_ref.code_ptr()),
            address(release.code_ptr()),
            address(on_data_change.code_ptr()),
            address(on_view_change.code_ptr()),
            address(on_rename.code_ptr()),
            address(on_save.code_ptr()),
            address(on_close.code_ptr()),
        ]
    };
    let object = methods.as_ptr(); // an object begins with the address of its methods
    work((&raw const object).cast_mut().cast());
    assert_eq!(references.get(), 1, "somebody still has the sink");
}

/// # Safety
/// `F` must be the type of the object's method of that number.
unsafe fn method<F: Copy>(object: Object, number: usize) -> F {
    // SAFETY: by the caller's promise.
    unsafe { (*object.cast::<*const F>()).add(number).read() }
}

pub fn run() {
    type Method = unsafe extern "system" fn(Object) -> HRESULT;
    type Advise = unsafe extern "system" fn(Object, Object, *mut u32) -> HRESULT;
    type Unadvise = unsafe extern "system" fn(Object, u32) -> HRESULT;
    let heard = RefCell::default();
    with_sink(&heard, |sink| {
        let (mut holder, mut connection) = (null_mut(), 0);
        // SAFETY: the numbers and types are those of `IOleAdviseHolder`.
        unsafe {
            assert_eq!(CreateOleAdviseHolder(&mut holder), S_OK);
            method::<Advise>(holder, 3)(holder, sink, &mut connection);
            method::<Method>(holder, 7)(holder); // SendOnSave
            method::<Method>(holder, 8)(holder); // SendOnClose
            method::<Unadvise>(holder, 4)(holder, connection);
            method::<Count>(holder, 2)(holder); // Release
        }
    });
    assert_eq!(heard.into_inner(), ["saved", "closed"]);
}
