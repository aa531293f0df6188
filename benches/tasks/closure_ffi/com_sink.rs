//! A COM sink whose eight methods are closures: an `IAdviseSink`, which hears what becomes of a document.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::null_mut;

use closure_ffi::BareFn;
use windows_sys::Win32::Foundation::{E_NOINTERFACE, S_OK};
use windows_sys::Win32::System::Com::{FORMATETC, STGMEDIUM};
use windows_sys::Win32::System::Ole::CreateOleAdviseHolder;
use windows_sys::core::{GUID, HRESULT, IID_IUnknown};

type Object = *mut c_void;
type QueryInterface = unsafe extern "system" fn(Object, *const GUID, *mut Object) -> HRESULT;
type Count = unsafe extern "system" fn(Object) -> u32;
type OnDataChange = unsafe extern "system" fn(Object, *const FORMATETC, *const STGMEDIUM);
type OnViewChange = unsafe extern "system" fn(Object, u32, i32);
type OnRename = unsafe extern "system" fn(Object, Object);
type Event = unsafe extern "system" fn(Object);

const IID_IADVISESINK: GUID = GUID::from_u128(0x0000010f_0000_0000_c000_000000000046);

fn is(a: &GUID, b: &GUID) -> bool {
    (a.data1, a.data2, a.data3, a.data4) == (b.data1, b.data2, b.data3, b.data4)
}

/// Lends `work` a sink that lists in `heard` what it is told. `work` gives back each reference that it takes.
fn with_sink(heard: &RefCell<Vec<String>>, work: impl FnOnce(Object)) {
    let references = Cell::new(1);
    let count = |by: i32| {
        references.set(references.get() + by);
        references.get() as u32
    };
    let hear = |what: &str| heard.borrow_mut().push(what.to_owned());
    let query_interface = |this, wanted: *const GUID, found: *mut Object| {
        // SAFETY: COM passes the name of an interface, and a place for the object.
        let is_ours = unsafe { is(&*wanted, &IID_IUnknown) || is(&*wanted, &IID_IADVISESINK) };
        // SAFETY: as above.
        unsafe { found.write(if is_ours { this } else { null_mut() }) };
        count(is_ours.into());
        if is_ours { S_OK } else { E_NOINTERFACE }
    };
    let callbacks = [
        BareFn::<QueryInterface>::new(query_interface).into_untyped(),
        BareFn::<Count>::new(|_| count(1)).into_untyped(),
        BareFn::<Count>::new(|_| count(-1)).into_untyped(),
        BareFn::<OnDataChange>::new(|_, _, _| hear("data")).into_untyped(),
        BareFn::<OnViewChange>::new(|_, aspect, _| hear(&format!("view {aspect}"))).into_untyped(),
        BareFn::<OnRename>::new(|_, _| hear("name")).into_untyped(),
        BareFn::<Event>::new(|_| hear("saved")).into_untyped(),
        BareFn::<Event>::new(|_| hear("closed")).into_untyped(),
    ];
    let methods: [_; 8] = callbacks.each_ref().map(|callback| callback.bare());
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
