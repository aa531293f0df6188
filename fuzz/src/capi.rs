//! Sequences of calls of the C interface, with pointers that are null, numbers that mean nothing, slots that were
//! released, from within handlers, too, against a model of the table; every entry is called, live or stale.
//!
//! The table is one for the whole process, so the model continues from input to input; each input releases all it took.
//! What a process can do but once, declaring a chain and sealing, an input does again in a process of its own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::c_void;
use std::ptr::{null, null_mut, without_provenance_mut};
use std::sync::{Mutex, MutexGuard};

use arbitrary::Arbitrary;
use calltable::table::ENTRY_STRIDE;
use calltable::{MAX_POSITIONS, RawFrame};
use calltable_capi::{self as capi, Function, Status};

use super::call::call;

#[derive(Arbitrary, Clone, Debug)]
struct Bind {
    is_shared: bool,
    does_not_wait: bool,
    /// 0 the right one.
    version: u8,
    options: u8,
    is_handler_null: bool,
    data: u8,
    is_frame: bool,
    convention: u8,
    positions: u8,
    /// One in 16 has a pointer that is null, or a signature that was not filled.
    wrong: u8,
}

#[derive(Arbitrary, Clone, Debug)]
enum Step {
    Bind(Bind),
    /// Binds until so many slots are free.
    Fill {
        free: u8,
    },
    /// Releases what was bound as number `which`.
    Release {
        which: u8,
        form: u8,
    },
    ReleaseNumber(u64),
    /// Calls it, live or not; the next `inside` steps run in the handler.
    Call {
        which: u8,
        inside: u8,
        argument: u64,
    },
    CallIndex {
        index: u16,
        argument: u64,
    },
    StaleHandler {
        is_set: bool,
    },
    Look {
        index: u32,
        offset: u16,
    },
    Declare {
        is_null: bool,
    },
    Seal,
}

/// What the fuzzer makes up.
#[derive(Arbitrary, Debug)]
pub struct Input {
    /// One in 16 ends in a process of its own.
    alone: u8,
    steps: Vec<Step>,
}

/// What makes registrations equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    handler: usize,
    data: usize,
    options: u32,
    is_frame: bool,
    positions: u32,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    number: u64,
    key: Key,
    /// 0 for one that was registered by itself.
    uses: u32,
    /// Released while calls are running.
    is_closed: bool,
}

#[derive(Default)]
struct Model {
    /// In the order in which slots will be given away.
    free: VecDeque<usize>,
    live: HashMap<usize, Live>,
    running: HashMap<usize, u32>,
    was_registered: HashSet<usize>,
    /// All that were ever given away by this input, with their slots.
    numbers: Vec<(u64, usize)>,
    is_answered: bool,
    is_declared: bool,
    is_sealed: bool,
    steps: VecDeque<Step>,
    /// What the next handler is to see, and what it has to do.
    argument: u64,
    inside: u8,
    expected: Option<Key>,
    depth: u8,
    stale: Option<(u32, i32, usize)>,
}

static MODEL: Mutex<Option<Model>> = Mutex::new(None);

/// The model, not to be held while anything is called.
struct Access(MutexGuard<'static, Option<Model>>);

impl std::ops::Deref for Access {
    type Target = Model;
    fn deref(&self) -> &Model {
        self.0.as_ref().expect("a model")
    }
}

impl std::ops::DerefMut for Access {
    fn deref_mut(&mut self) -> &mut Model {
        self.0.as_mut().expect("a model")
    }
}

fn model() -> Access {
    Access(MODEL.lock().expect("nobody has panicked"))
}

fn capacity() -> usize {
    capi::calltable_capacity() as usize
}

/// Position `index` of the calls with this argument.
fn position(argument: u64, index: usize) -> u64 {
    argument.wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn result_of(argument: u64, data: usize) -> u64 {
    argument.rotate_left(17) ^ data as u64 ^ 0x5eed
}

/// What every handler does.
fn handle(positions: &[u64], data: *mut c_void, is_frame: bool) -> u64 {
    let (argument, inside) = {
        let mut model = model();
        let key = model.expected.take().expect("a call of a live slot");
        let argument = model.argument;
        assert_eq!((data.addr(), is_frame, positions.len()), (key.data, key.is_frame, key.positions as usize));
        for (index, value) in positions.iter().enumerate() {
            assert_eq!(*value, position(argument, index), "position {index} of {}", positions.len());
        }
        model.depth += 1;
        (argument, std::mem::take(&mut model.inside))
    };
    for _ in 0..inside {
        step();
    }
    model().depth -= 1;
    result_of(argument, data.addr())
}

/// A handler of the direct lane for `N` positions. It has more parameters, so that there is one for each `N`, and looks
/// at no other than the first `N` and the one after them, its data.
macro_rules! direct {
    ($($p:ident)*) => {
        unsafe extern "win64" fn direct<const N: usize>($($p: u64),*) -> u64 {
            let all = [$($p),*];
            handle(&all[..N], without_provenance_mut(all[N] as usize), false)
        }
    };
}
direct!(
    p0 p1 p2 p3 p4 p5 p6 p7 p8 p9 p10 p11 p12 p13 p14 p15 p16 p17 p18 p19 p20 p21 p22 p23 p24 p25 p26 p27 p28 p29
    p30 p31 p32 p33 p34 p35 p36 p37 p38 p39 p40 p41 p42 p43 p44 p45 p46 p47 p48 p49 p50 p51 p52 p53 p54 p55 p56
    p57 p58 p59 p60 p61 p62 p63 p64
);

/// The handlers for 0 to 64 positions.
macro_rules! handlers {
    ($($n:literal)*) => { [$(direct::<$n> as *const c_void),*] };
}
fn direct_handler(positions: usize) -> *const c_void {
    let all = handlers!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37
        38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64
    );
    all[positions.min(MAX_POSITIONS)]
}

unsafe extern "win64" fn frame_handler(data: *mut c_void, frame: *mut RawFrame) {
    let count = model().expected.expect("a call of a live slot").positions as usize;
    // SAFETY: the caller below passes as many positions as there may be.
    let result = unsafe { handle(std::slice::from_raw_parts((*frame).arguments, count), data, true) };
    // SAFETY: it is the frame of this call.
    unsafe { (*frame).result = [result, 0] };
}

unsafe extern "C" fn stale_handler(call: *const capi::StaleCall) {
    // SAFETY: the table calls with a call.
    assert_eq!(unsafe { capi::calltable_stale_set(call, 0x57a1e) }, capi::OK);
    // SAFETY: as above.
    let call = unsafe { &*call };
    let mut model = model();
    let (index, reason, code) = model.stale.take().expect("a call of a stale slot");
    let found = (call.index, call.reason, address(call.code));
    assert_eq!(found, (index, reason, code));
    assert!(!call.caller.is_null());
}

fn address(code: Function) -> usize {
    code.map_or(0, |code| code as usize)
}

fn filled_signature(positions: u8) -> Option<capi::Signature> {
    let types = [capi::U64; 96];
    let mut signature = capi::Signature { mark: 0, words: std::mem::MaybeUninit::uninit() };
    // A call passes no more.
    let count = usize::from(positions) % (MAX_POSITIONS + 1);
    // SAFETY: the array has more elements than that.
    let status =
        unsafe { capi::calltable_signature_init(&mut signature, capi::NATIVE, types.as_ptr(), count, capi::U64) };
    assert_eq!(status, capi::OK);
    (status == capi::OK).then_some(signature)
}

fn bind(bind: &Bind) {
    let function = match (bind.is_shared, bind.does_not_wait) {
        (false, false) => capi::calltable_register,
        (false, true) => capi::calltable_try_register,
        (true, false) => capi::calltable_share,
        (true, true) => capi::calltable_try_share,
    };
    // One in 16 has a bit that is none.
    let options = u32::from(bind.options) | u32::from(bind.wrong % 16 == 4) << 8;
    // A signature of as many words tells the positions.
    let is_described = options & capi::DIRECT_LANE != 0;
    let signature = filled_signature(bind.positions);
    let unfilled = capi::Signature { mark: 77, words: std::mem::MaybeUninit::uninit() };
    let is_frame = bind.is_frame && !is_described;
    let has_signature = bind.is_frame;
    let signature = match &signature {
        _ if !has_signature => null(),
        _ if bind.wrong % 16 == 1 => &raw const unfilled,
        signature => signature.as_ref().map_or(null(), |signature| signature),
    };
    let positions = u32::from(bind.positions) % if has_signature { MAX_POSITIONS as u32 + 1 } else { 96 };
    let handler = if is_frame { frame_handler as *const c_void } else { direct_handler(positions as usize) };
    let handler = if bind.is_handler_null && bind.wrong & 0x80 != 0 { null() } else { handler };
    let data = usize::from(bind.data % 8) * 1000;
    // A contained one needs a filter.
    let data = if options & capi::CONTAINED != 0 && data != 0 { (&raw const FILTER).addr() } else { data };
    let convention = u32::from(if bind.wrong & 0x40 != 0 { bind.convention } else { bind.convention % 3 });
    let version = capi::VERSION.wrapping_add(if bind.version > 0xf0 { bind.version.into() } else { 0 });
    // SAFETY: a function pointer that may be null; the handler takes what it is called with below.
    let handler_of_c = unsafe { std::mem::transmute::<*const c_void, Function>(handler) };
    let data_of_c = without_provenance_mut(data);
    // Nothing depends on it.
    let name = if bind.data % 2 == 1 { c"not \xff UTF-8".as_ptr() } else { null() };
    let binding = capi::Binding {
        version,
        options,
        handler: handler_of_c,
        data: data_of_c,
        signature,
        convention,
        positions,
        name,
    };
    let given = if bind.wrong % 16 == 2 { null() } else { &raw const binding };
    let mut slot = 0xbad;
    let at = if bind.wrong % 16 == 3 { null_mut() } else { &raw mut slot };

    let key = Key { handler: handler.addr(), data, options: effective(options), is_frame, positions };
    let mut model = model();
    let equal = model
        .live
        .iter()
        .find(|(_, live)| bind.is_shared && live.uses > 0 && live.key == key)
        .map(|(index, live)| (*index, live.number));
    let want = if given.is_null() || at.is_null() {
        capi::NULL_POINTER
    } else if version != capi::VERSION {
        capi::OTHER_VERSION
    } else if options > 255 {
        capi::UNKNOWN_OPTION
    } else if handler.is_null() {
        capi::NULL_HANDLER
    } else if is_described && !has_signature {
        capi::NULL_POINTER
    } else if !has_signature && convention > capi::AAPCS64 {
        capi::UNKNOWN_CONVENTION
    } else if has_signature && bind.wrong % 16 == 1 {
        capi::BAD_SIGNATURE
    } else if !has_signature && convention > capi::WIN64 {
        capi::CONVENTION_UNAVAILABLE
    } else if !is_frame && positions > MAX_POSITIONS as u32 {
        capi::TOO_MANY_POSITIONS
    } else if options & capi::CONTAINED != 0 && data == 0 {
        capi::NULL_FILTER
    } else if options & capi::CONTAINED != 0 && !model.is_declared {
        capi::NO_EXCEPTIONS
    } else if model.is_sealed {
        capi::SEALED
    } else if equal.is_none() && model.free.is_empty() {
        capi::TABLE_FULL
    } else {
        capi::OK
    };
    // SAFETY: the structure's handler can be called in its way, and `at` is null or writable.
    let status = unsafe { function(given, at) };
    assert_eq!(status, want, "{bind:?}");
    if status != capi::OK {
        assert!(at.is_null() || slot == capi::NO_SLOT);
        return;
    }
    if let Some((index, number)) = equal {
        assert_eq!(slot, number, "shared");
        model.live.get_mut(&index).expect("live").uses += 1;
    } else {
        assert!(slot != capi::NO_SLOT && model.numbers.iter().all(|(number, _)| *number != slot), "a new number");
        let index = model.free.pop_front().expect("not full");
        let live = Live { number: slot, key, uses: bind.is_shared.into(), is_closed: false };
        assert!(model.live.insert(index, live).is_none());
        model.was_registered.insert(index);
        model.numbers.push((slot, index));
        assert_eq!(index_of(capi::calltable_code(slot)), Ok(index as u32), "in the order of the releases");
    }
}

/// Options that say the same are equal.
fn effective(options: u32) -> u32 {
    // The key says the first, the others mean nothing here.
    let mut options = options & !(capi::DIRECT_LANE | capi::FRAMED | capi::KEEPING_X18);
    if options & capi::EXCLUSIVE != 0 {
        options |= capi::TRACKED;
    }
    if options & capi::SAVING_CONTROL_WORDS != 0 {
        options |= capi::SAVING;
    }
    options
}

unsafe extern "win64" fn search_on(_: *mut c_void, _: *const c_void, _: *mut c_void) -> i32 {
    0
}
/// Begins with a filter, which is never asked.
static FILTER: unsafe extern "win64" fn(*mut c_void, *const c_void, *mut c_void) -> i32 = search_on;

fn index_of(code: Function) -> Result<u32, Status> {
    let mut index = 0xbad;
    // SAFETY: a place for the index.
    match unsafe { capi::calltable_index_of(code, &mut index) } {
        capi::OK => Ok(index),
        status => Err(status),
    }
}

fn release(number: u64, form: u8) {
    let mut model = model();
    let found = model.live.iter().find(|(_, live)| live.number == number).map(|(index, live)| (*index, *live));
    let running = found.map_or(0, |(index, _)| model.running.get(&index).copied().unwrap_or(0));
    let is_counted = found.is_some_and(|(_, live)| live.key.options & capi::TRACKED != 0);
    let (index, want) = match found {
        // Numbers that no slot can have are told before the table is looked at.
        None if capi::calltable_code(number).is_none() => (0, capi::NOT_LIVE),
        _ if model.is_sealed => (0, capi::SEALED),
        None => (0, capi::NOT_LIVE),
        Some((index, live)) if live.uses > 1 => {
            model.live.get_mut(&index).expect("live").uses -= 1;
            (index, capi::OK)
        }
        Some((index, _)) if is_counted && running > 0 => {
            let live = model.live.get_mut(&index).expect("live");
            (live.is_closed, live.uses) = (true, 0);
            (index, capi::IN_FLIGHT)
        }
        Some((index, _)) => {
            model.live.remove(&index);
            model.free.push_back(index);
            (index, capi::OK)
        }
    };
    // SAFETY: what is registered here is this program's own.
    let status = unsafe {
        match form % 3 {
            0 => capi::calltable_try_release(number),
            1 if want != capi::IN_FLIGHT => capi::calltable_release_and_wait(number),
            _ => capi::calltable_release(number),
        }
    };
    assert_eq!(status, want, "slot {index}");
}

fn call_index(index: usize, argument: u64, inside: u8) {
    let mut access = model();
    let state = &mut *access;
    let code = code_at(index);
    let live = state.live.get(&index).copied().filter(|live| !live.is_closed);
    let running = state.running.get(&index).copied().unwrap_or(0);
    let is_refused = live.is_some_and(|live| live.key.options & capi::EXCLUSIVE != 0 && running > 0);
    let reason = match live {
        Some(_) => capi::RUNNING,
        None if state.was_registered.contains(&index) => capi::RELEASED,
        None => capi::NEVER_REGISTERED,
    };
    if (live.is_none() || is_refused) && !state.is_answered {
        return; // it would stop the program
    }
    let runs = live.filter(|_| !is_refused);
    let is_counted = runs.is_some_and(|live| live.key.options & capi::TRACKED != 0);
    match runs {
        Some(live) => (state.expected, state.argument, state.inside) = (Some(live.key), argument, inside),
        None => state.stale = Some((index as u32, reason, code.addr())),
    }
    if is_counted {
        *state.running.entry(index).or_default() += 1;
    }
    drop(access);
    let positions: [u64; MAX_POSITIONS] = std::array::from_fn(|index| position(argument, index));
    // SAFETY: an entry of the table; live ones have handlers that read these positions, and the stale handler returns.
    let returned = unsafe { call(code, &positions, &[0; 4]) };
    let mut model = model();
    if is_counted {
        *model.running.get_mut(&index).expect("counted") -= 1;
    }
    let result = runs.map_or(0x57a1e, |live| result_of(argument, live.key.data));
    assert_eq!(returned.rax, result);
    if runs.is_none_or(|live| live.key.is_frame) {
        assert_eq!(returned.xmm0[0], result);
    }
    assert!(model.expected.is_none() && model.stale.is_none(), "the call has run something");
}

/// The address of an entry, from that of the first.
fn code_at(index: usize) -> *const () {
    (capi::calltable_code(1).expect("slot 0 has an entry") as *const ()).wrapping_byte_add(ENTRY_STRIDE * index)
}

fn look(index: u32, offset: u16) {
    let model = model();
    let mut entry = std::mem::MaybeUninit::<capi::LiveSlot>::uninit();
    let live = model.live.get(&(index as usize)).filter(|live| !live.is_closed);
    let want = match live {
        _ if index as usize >= capacity() => capi::NO_SUCH_SLOT,
        None => capi::NOT_LIVE,
        Some(_) => capi::OK,
    };
    // SAFETY: places for what is asked, or null.
    unsafe {
        assert_eq!(capi::calltable_live_slot_at(index, null_mut()), capi::NULL_POINTER);
        assert_eq!(capi::calltable_live_slot_at(index, entry.as_mut_ptr()), want);
        assert_eq!(capi::calltable_try_live_slot_at(index, entry.as_mut_ptr()), want);
        if let Some(live) = live {
            let entry = entry.assume_init_ref();
            let counted = live.key.options & capi::TRACKED != 0;
            let running = model.running.get(&(index as usize)).copied().unwrap_or(0);
            let in_flight = if counted { running } else { capi::NOT_COUNTED };
            assert_eq!((entry.slot, entry.uses, entry.in_flight), (live.number, live.uses, in_flight));
            assert_eq!((entry.data.addr(), address(entry.handler)), (live.key.data, live.key.handler));
            assert_eq!(address(entry.code), code_at(index as usize).addr());
        }
        // Addresses in and after the table.
        let at = code_at(0).wrapping_byte_add(offset.into()).cast::<c_void>();
        let slot = usize::from(offset) / ENTRY_STRIDE;
        let mut found = 0xbad;
        let status = capi::calltable_locate(at, &mut found);
        match slot < capacity() {
            true => assert_eq!((status, found), (capi::OK, slot as u32)),
            false => assert!(status == capi::NOT_AN_ENTRY || found == capi::NO_INDEX),
        }
        let is_entry = slot < capacity() && usize::from(offset) % ENTRY_STRIDE == 0;
        let code = std::mem::transmute::<*const c_void, Function>(at);
        assert_eq!(index_of(code), if is_entry { Ok(slot as u32) } else { Err(capi::NOT_AN_ENTRY) });
        assert_eq!(capi::calltable_index_of(code, null_mut()), capi::NULL_POINTER);
        assert_eq!(capi::calltable_locate(at, null_mut()), capi::NULL_POINTER);
        assert_eq!(index_of(None), Err(capi::NOT_AN_ENTRY));
    }
    let text = capi::calltable_status_text(index as Status);
    // SAFETY: a string that is there for ever.
    assert!(unsafe { std::ffi::CStr::from_ptr(text) }.to_bytes().len() > 5);
    assert_eq!(capi::calltable_check_version(index) == capi::OK, index == capi::VERSION);
}

unsafe extern "efiapi" fn no_block() -> *mut capi::ThreadBlock {
    null_mut()
}

fn seal() {
    let mut model = model();
    let is_counted = |options: u32| options & capi::TRACKED != 0;
    let running = model.running.values().any(|count| *count > 0);
    let counted = running || model.live.values().any(|live| is_counted(live.key.options));
    let (mut start, mut end) = (null(), null());
    // SAFETY: what is live stays so, to the end of this process.
    unsafe {
        assert_eq!(capi::calltable_seal(null_mut(), &mut end), capi::NULL_POINTER);
        assert_eq!(capi::calltable_seal(&mut start, null_mut()), capi::NULL_POINTER);
        let status = capi::calltable_seal(&mut start, &mut end);
        assert_eq!(status, if counted { capi::COUNTED } else { capi::OK });
    }
    model.is_sealed |= !counted;
    if counted {
        return;
    }
    assert!(start.addr() % 4096 == 0 && end.addr() % 4096 == 0 && start < end);
    // SAFETY: these pages are to be written no more, says the header.
    let protected = unsafe { libc::mprotect(start.cast_mut(), end.addr() - start.addr(), libc::PROT_READ) };
    assert_eq!(protected, 0);
}

fn step() {
    let (step, is_alone) = {
        let mut model = model();
        let Some(step) = model.steps.pop_front() else { return };
        (step, IS_ALONE.load(std::sync::atomic::Ordering::Relaxed))
    };
    let number = |which: u8| {
        let model = model();
        let count = model.numbers.len();
        if count == 0 { (0, 0) } else { model.numbers[count - 1 - usize::from(which) % count] }
    };
    match step {
        Step::Bind(one) => bind(&one),
        Step::Fill { free } => {
            let plain = Bind {
                is_shared: false,
                does_not_wait: false,
                version: 0,
                options: 0,
                is_handler_null: false,
                data: 3,
                is_frame: false,
                convention: 0,
                positions: 2,
                wrong: 0,
            };
            while !model().is_sealed && model().free.len() > free.into() {
                bind(&plain);
            }
        }
        Step::Release { which, form } => release(number(which).0, form),
        Step::ReleaseNumber(number) => release(number, number as u8),
        Step::Call { which, inside, argument } => {
            let inside = if model().depth < 8 { inside } else { 0 };
            call_index(number(which).1, argument, inside);
        }
        Step::CallIndex { index, argument } => call_index(usize::from(index) % capacity(), argument, 0),
        Step::StaleHandler { is_set } => {
            let mut model = model();
            // SAFETY: each result is a number.
            let status = unsafe { capi::calltable_set_stale_handler(is_set.then_some(stale_handler)) };
            assert_eq!(status, if model.is_sealed { capi::SEALED } else { capi::OK });
            model.is_answered = if model.is_sealed { model.is_answered } else { is_set };
        }
        Step::Look { index, offset } => look(if index > 1 << 24 { index } else { index % 4096 }, offset),
        Step::Declare { is_null } if is_alone => {
            let mut model = model();
            let find: capi::FindBlock = if is_null { None } else { Some(no_block) };
            // SAFETY: no thread has a block, which may be said.
            let status = unsafe { capi::calltable_declare_exceptions(find) };
            assert_eq!(
                status,
                match (is_null, model.is_sealed) {
                    (true, _) => capi::NULL_POINTER,
                    (_, true) => capi::SEALED,
                    _ => capi::OK,
                }
            );
            model.is_declared |= status == capi::OK;
        }
        Step::Seal if is_alone => seal(),
        Step::Declare { .. } | Step::Seal => {}
    }
    let live = model().live.len();
    assert_eq!(capi::calltable_live_count() as usize, live);
}

static IS_ALONE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn run(steps: Vec<Step>) {
    model().steps = steps.into();
    while !model().steps.is_empty() {
        step();
    }
    // Everything is as it was, whatever happened.
    let left: Vec<u64> = model().live.values().flat_map(|live| vec![live.number; live.uses.max(1) as usize]).collect();
    left.into_iter().for_each(|number| release(number, 1));
    let mut model = model();
    model.numbers.clear();
    assert!(model.is_sealed || (model.live.is_empty() && capi::calltable_live_count() == 0));
}

/// Runs one input; panics, or worse, if something is wrong.
pub fn test(input: Input) {
    let mut first = MODEL.lock().expect("nobody has panicked");
    if first.is_none() {
        *first = Some(Model { free: (0..capacity()).collect(), ..Model::default() });
    }
    drop(first);
    run(input.steps.clone());
    if input.alone % 16 != 1 {
        return;
    }
    // SAFETY: no other thread holds a lock that the child wants.
    match unsafe { libc::fork() } {
        0 => {
            IS_ALONE.store(true, std::sync::atomic::Ordering::Relaxed);
            run(input.steps);
            // SAFETY: ends the child, without libFuzzer's last words.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // libFuzzer's clock interrupts the waiting.
            // SAFETY: waits for the child.
            while unsafe { libc::waitpid(child, &mut status, 0) } != child {}
            assert_eq!(status, 0, "the process that did this alone has failed");
        }
    }
}
