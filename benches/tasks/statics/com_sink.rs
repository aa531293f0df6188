//! A COM sink of eight functions, with its state after the address of their table: an `IAdviseSink`, which hears what
//! becomes of a document.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::null_mut;

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

#[repr(C)]
struct Methods {
    query_interface: unsafe extern "system" fn(Object, *const GUID, *mut Object) -> HRESULT,
    add_ref: Count,
    release: Count,
    on_data_change: unsafe extern "system" fn(Object, *const FORMATETC, *const STGMEDIUM),
    on_view_change: unsafe extern "system" fn(Object, u32, i32),
    on_rename: unsafe extern "system" fn(Object, Object),
    on_save: unsafe extern "system" fn(Object),
    on_close: unsafe extern "system" fn(Object),
}

static METHODS: Methods =
    Methods { query_interface, add_ref, release, on_data_change, on_view_change, on_rename, on_save, on_close };

#[repr(C)]
struct Sink<'a> {
    methods: &'static Methods,
    references: Cell<i32>,
    heard: &'a RefCell<Vec<String>>,
}

impl Sink<'_> {
    fn count(&self, by: i32) -> u32 {
        self.references.set(self.references.get() + by);
        self.references.get() as u32
    }

    fn hear(&self, what: &str) {
        self.heard.borrow_mut().push(what.to_owned());
    }
}

/// # Safety
/// The object must be a sink of ours.
unsafe fn sink<'a>(object: Object) -> &'a Sink<'a> {
    // SAFETY: by the caller's promise.
    unsafe { &*object.cast() }
}

unsafe extern "system" fn query_interface(this: Object, wanted: *const GUID, found: *mut Object) -> HRESULT {
    // SAFETY: COM passes the name of an interface, and a place for the object.
    let is_ours = unsafe { is(&*wanted, &IID_IUnknown) || is(&*wanted, &IID_IADVISESINK) };
    // SAFETY: as above; it is ours.
    unsafe {
        found.write(if is_ours { this } else { null_mut() });
        sink(this).count(is_ours.into());
    }
    if is_ours { S_OK } else { E_NOINTERFACE }
}
unsafe extern "system" fn add_ref(this: Object) -> u32 {
    // SAFETY: it is ours.
    unsafe { sink(this) }.count(1)
}
unsafe extern "system" fn release(this: Object) -> u32 {
    // SAFETY: it is ours.
    unsafe { sink(this) }.count(-1)
}
unsafe extern "system" fn on_data_change(this: Object, _: *const FORMATETC, _: *const STGMEDIUM) {
    // SAFETY: it is ours.
    unsafe { sink(this) }.hear("data");
}
unsafe extern "system" fn on_view_change(this: Object, aspect: u32, _: i32) {
    // SAFETY: it is ours.
    unsafe { sink(this) }.hear(&format!("view {aspect}"));
}
unsafe extern "system" fn on_rename(this: Object, _: Object) {
    // SAFETY: it is ours.
    unsafe { sink(this) }.hear("name");
}
unsafe extern "system" fn on_save(this: Object) {
    // SAFETY: it is ours.
    unsafe { sink(this) }.hear("saved");
}
unsafe extern "system" fn on_close(this: Object) {
    // SAFETY: it is ours.
    unsafe { sink(this) }.hear("closed");
}

/// Lends `work` a sink that lists in `heard` what it is told. `work` gives back each reference that it takes.
fn with_sink(heard: &RefCell<Vec<String>>, work: impl FnOnce(Object)) {
    let sink = Sink { methods: &METHODS, references: Cell::new(1), heard };
    work((&raw const sink).cast_mut().cast());
    assert_eq!(sink.references.get(), 1, "somebody still has the sink");
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
