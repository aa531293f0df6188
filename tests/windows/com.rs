//! A COM object whose every method is a callback, given to the system's own code.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use calltable::{Callback, CodePointer};
use windows_sys::Win32::Foundation::{E_NOINTERFACE, E_NOTIMPL, S_OK};
use windows_sys::Win32::System::Com::StructuredStorage::{CreateStreamOnHGlobal, ReadClassStm, WriteClassStm};
use windows_sys::Win32::System::Com::{
    CLSCTX_INPROC_SERVER, COINIT_MULTITHREADED, CoGetClassObject, CoInitializeEx, CoRegisterClassObject,
    CoRevokeClassObject, CoUninitialize, REGCLS_MULTIPLEUSE, STATSTG, STREAM_SEEK_CUR, STREAM_SEEK_END,
    STREAM_SEEK_SET,
};
use windows_sys::Win32::UI::Shell::{IStream_Read, IStream_Reset, IStream_Size, IStream_Write};
use windows_sys::core::{GUID, HRESULT};

const IUNKNOWN: GUID = GUID::from_u128(0x00000000_0000_0000_c000_000000000046);
const ISEQUENTIALSTREAM: GUID = GUID::from_u128(0x0c733a30_2a1c_11ce_ade5_00aa0044773d);
const ISTREAM: GUID = GUID::from_u128(0x0000000c_0000_0000_c000_000000000046);
const CLASS: GUID = GUID::from_u128(0x6d1c5ba2_8a3f_4bd7_9d0c_5f2a3c4e7710);

const METHODS: [&str; 14] = [
    "QueryInterface",
    "AddRef",
    "Release",
    "Read",
    "Write",
    "Seek",
    "SetSize",
    "CopyTo",
    "Commit",
    "Revert",
    "LockRegion",
    "UnlockRegion",
    "Stat",
    "Clone",
];

/// What foreign code sees of an object: first of all a pointer to its methods.
#[repr(C)]
struct Object {
    methods: *const CodePointer,
}

#[derive(Default)]
struct State {
    data: Vec<u8>,
    position: usize,
    references: u32,
    calls: Vec<&'static str>,
}

fn same(a: &GUID, b: &GUID) -> bool {
    (a.data1, a.data2, a.data3, a.data4) == (b.data1, b.data2, b.data3, b.data4)
}

/// Runs `work` with a stream that holds `data`; returns what `work` returned and the stream's state after it.
fn with_stream<R>(data: &[u8], work: impl FnOnce(*mut c_void, &Mutex<State>) -> R) -> (R, State) {
    type This = *mut c_void;
    let state = Mutex::new(State { data: data.to_vec(), references: 1, ..State::default() });
    let enter = |method| {
        let mut state = state.lock().unwrap();
        state.calls.push(method);
        state
    };
    let refuse = |method| -> HRESULT {
        drop(enter(method));
        E_NOTIMPL
    };
    // SAFETY, of all that follows: COM's rules for callers say what the pointers point to.
    let query_interface = |this: This, interface: *const GUID, object: *mut *mut c_void| -> HRESULT {
        let mut state = enter("QueryInterface");
        // SAFETY: as above.
        let known = unsafe { [IUNKNOWN, ISEQUENTIALSTREAM, ISTREAM].iter().any(|id| same(id, &*interface)) };
        // SAFETY: as above.
        unsafe { object.write(if known { this } else { null_mut() }) };
        state.references += u32::from(known);
        if known { S_OK } else { E_NOINTERFACE }
    };
    let add_ref = |_: This| {
        let mut state = enter("AddRef");
        state.references += 1;
        state.references
    };
    let release = |_: This| {
        let mut state = enter("Release");
        state.references -= 1;
        state.references
    };
    let read = |_: This, buffer: *mut u8, length: u32, done: *mut u32| -> HRESULT {
        let mut state = enter("Read");
        let rest = state.data.get(state.position..).unwrap_or_default();
        let count = rest.len().min(length as usize);
        // SAFETY: as above.
        unsafe {
            buffer.copy_from_nonoverlapping(rest.as_ptr(), count);
            if !done.is_null() {
                done.write(count as u32);
            }
        }
        state.position += count;
        S_OK
    };
    let write = |_: This, buffer: *const u8, length: u32, done: *mut u32| -> HRESULT {
        let mut state = enter("Write");
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(buffer, length as usize) };
        let (start, end) = (state.position, state.position + bytes.len());
        let size = state.data.len().max(end);
        state.data.resize(size, 0);
        state.data[start..end].copy_from_slice(bytes);
        state.position = end;
        if !done.is_null() {
            // SAFETY: as above.
            unsafe { done.write(length) };
        }
        S_OK
    };
    // The offset takes 64 bits, in one position or two.
    let seek = |_: This, offset: i64, origin: u32, now: *mut u64| -> HRESULT {
        let mut state = enter("Seek");
        let base = match origin {
            STREAM_SEEK_SET => 0,
            STREAM_SEEK_CUR => state.position as i64,
            STREAM_SEEK_END => state.data.len() as i64,
            _ => return E_NOTIMPL,
        };
        state.position = (base + offset) as usize;
        if !now.is_null() {
            // SAFETY: as above.
            unsafe { now.write(state.position as u64) };
        }
        S_OK
    };
    let set_size = |_: This, size: u64| -> HRESULT {
        enter("SetSize").data.resize(size as usize, 0);
        S_OK
    };
    let copy_to = |_: This, _: *mut c_void, _: u64, _: *mut u64, _: *mut u64| refuse("CopyTo");
    let commit = |_: This, _: u32| refuse("Commit");
    let revert = |_: This| refuse("Revert");
    let lock_region = |_: This, _: u64, _: u64, _: u32| refuse("LockRegion");
    let unlock_region = |_: This, _: u64, _: u64, _: u32| refuse("UnlockRegion");
    let stat = |_: This, out: *mut STATSTG, _: u32| -> HRESULT {
        let state = enter("Stat");
        // SAFETY: as above; zeros are a STATSTG.
        unsafe { out.write(STATSTG { cbSize: state.data.len() as u64, ..std::mem::zeroed() }) };
        S_OK
    };
    let clone = |_: This, _: *mut *mut c_void| refuse("Clone");
    macro_rules! methods {
        ($($method:ident($($P:ty),*) -> $R:ty),* $(,)?) => {
            [$(Callback::<unsafe extern "system" fn(This $(, $P)*) -> $R>::from_ref(&$method).unwrap().untyped()),*]
        };
    }
    let callbacks: [Callback<'_, CodePointer>; METHODS.len()] = methods![
        query_interface(*const GUID, *mut *mut c_void) -> HRESULT,
        add_ref() -> u32,
        release() -> u32,
        read(*mut u8, u32, *mut u32) -> HRESULT,
        write(*const u8, u32, *mut u32) -> HRESULT,
        seek(i64, u32, *mut u64) -> HRESULT,
        set_size(u64) -> HRESULT,
        copy_to(*mut c_void, u64, *mut u64, *mut u64) -> HRESULT,
        commit(u32) -> HRESULT,
        revert() -> HRESULT,
        lock_region(u64, u64, u32) -> HRESULT,
        unlock_region(u64, u64, u32) -> HRESULT,
        stat(*mut STATSTG, u32) -> HRESULT,
        clone(*mut *mut c_void) -> HRESULT,
    ];
    let methods = callbacks.each_ref().map(Callback::code);
    let mut object = Object { methods: methods.as_ptr() };
    let result = work((&raw mut object).cast(), &state);
    drop(callbacks);
    (result, state.into_inner().unwrap())
}

/// A stream of the system's own, which ends with this value.
struct Memory(*mut c_void);

impl Memory {
    fn new(data: &[u8]) -> Self {
        let mut stream = null_mut();
        // SAFETY: the stream makes its own memory.
        assert_eq!(unsafe { CreateStreamOnHGlobal(null_mut(), 1, &mut stream) }, S_OK);
        let memory = Self(stream);
        // SAFETY: the stream and the bytes live.
        unsafe {
            assert_eq!(IStream_Write(stream, data.as_ptr().cast(), data.len() as u32), S_OK);
            assert_eq!(IStream_Reset(stream), S_OK);
        }
        memory
    }

    /// The stream's method number `index`.
    ///
    /// # Safety
    /// `F` must be its type.
    unsafe fn method<F: Copy>(&self, index: usize) -> F {
        // SAFETY: an object begins with a pointer to its methods.
        unsafe { *(*self.0.cast::<*const [*const c_void; METHODS.len()]>()).cast::<F>().add(index) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: Release is method 2 of every object.
        unsafe { self.method::<unsafe extern "system" fn(*mut c_void) -> u32>(2)(self.0) };
    }
}

const TEXT: &[u8] = b"The quick brown fox jumps over the lazy dog";

#[test]
fn shlwapi_reads_our_stream() {
    let ((), state) = with_stream(TEXT, |stream, _| {
        let mut size = 0;
        let mut buffer = [0_u8; 19];
        // SAFETY: the stream lives; the buffer has that length.
        unsafe {
            assert_eq!(IStream_Size(stream, &mut size), S_OK);
            assert_eq!(size, TEXT.len() as u64);
            assert_eq!(IStream_Read(stream, buffer.as_mut_ptr().cast(), 19), S_OK);
            assert_eq!(buffer, TEXT[..19]);
            assert_eq!(IStream_Reset(stream), S_OK);
            assert_eq!(IStream_Read(stream, buffer.as_mut_ptr().cast(), 3), S_OK);
            assert_eq!(&buffer[..3], &TEXT[..3]);
            let rest = IStream_Read(stream, buffer.as_mut_ptr().cast(), 1000);
            assert_ne!(rest, S_OK, "there are not as many bytes: refused by what our Read reports");
        }
    });
    for method in ["Stat", "Read", "Seek"] {
        assert!(state.calls.contains(&method), "{method} is not among {:?}", state.calls);
    }
}

#[test]
fn a_stream_of_the_system_copies_itself_into_ours() {
    let memory = Memory::new(TEXT);
    let (copied, state) = with_stream(b"", |stream, _| {
        type CopyTo = unsafe extern "system" fn(*mut c_void, *mut c_void, u64, *mut u64, *mut u64) -> HRESULT;
        let mut copied = [0, 0];
        let [read, written] = &mut copied;
        // SAFETY: CopyTo is method 7 of a stream.
        let result = unsafe { memory.method::<CopyTo>(7)(memory.0, stream, 1000, read, written) };
        assert_eq!(result, S_OK);
        copied
    });
    assert_eq!((copied, state.data.as_slice()), ([TEXT.len() as u64; 2], TEXT));
    assert!(state.calls.contains(&"Write"), "{:?}", state.calls);
}

#[test]
fn ole32_writes_a_class_into_our_stream_and_reads_it_back() {
    let ((), state) = with_stream(b"", |stream, _| {
        let mut class = GUID::from_u128(0);
        // SAFETY: the stream lives.
        unsafe {
            assert_eq!(WriteClassStm(stream, &CLASS), S_OK);
            assert_eq!(IStream_Reset(stream), S_OK);
            assert_eq!(ReadClassStm(stream, &mut class), S_OK);
        }
        assert!(same(&class, &CLASS));
    });
    assert_eq!(state.data.len(), 16);
    assert_eq!(state.data[..4], CLASS.data1.to_le_bytes());
}

#[test]
fn com_itself_counts_references_of_our_object() {
    let ((), state) = with_stream(TEXT, |stream, state| {
        let mut cookie = 0;
        let mut found = null_mut();
        // SAFETY: the object lives until it is revoked.
        unsafe {
            assert!(CoInitializeEx(null(), COINIT_MULTITHREADED as u32) >= 0);
            let class =
                CoRegisterClassObject(&CLASS, stream, CLSCTX_INPROC_SERVER, REGCLS_MULTIPLEUSE as u32, &mut cookie);
            assert_eq!(class, S_OK);
            let held = state.lock().unwrap().references;
            assert!(held > 1, "{held}");
            assert_eq!(CoGetClassObject(&CLASS, CLSCTX_INPROC_SERVER, null(), &ISTREAM, &mut found), S_OK);
            assert_eq!(found, stream, "what our QueryInterface gave");
            assert_eq!(state.lock().unwrap().references, held + 1);
            assert_eq!(CoRevokeClassObject(cookie), S_OK);
            CoUninitialize();
        }
    });
    assert_eq!(state.references, 2, "ours, and the one that CoGetClassObject gave us");
    for method in ["QueryInterface", "AddRef", "Release"] {
        assert!(state.calls.contains(&method), "{method} is not among {:?}", state.calls);
    }
}
