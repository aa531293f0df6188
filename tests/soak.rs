//! Everything at once: threads register, call, release and fault, for as long as one likes. What the crate promises is
//! checked at each call and, with all threads standing still, at each round.
//!
//! `cargo xtask soak MINUTES` sets the time; a test run takes a few seconds.
#![cfg(any(target_os = "linux", windows))]

#[cfg(target_os = "linux")]
#[path = "seh/signals.rs"]
mod signals;

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding, CAPACITY, FrameHandler, SlotId, SlotKey};
use calltable::{
    Callback, Contained, Convention, Dynamic, Error, Frame, FunctionPointer, Options, RawFrame, ReleaseError,
    Signature, StaleCall, StaleReason, Type, set_stale_handler,
};

const THREADS: usize = 4;
/// How deep handlers call each other.
const DEPTH: usize = 2;
/// Slots that may be live at once while the threads run: registered by hand, shared, by handlers, and typed.
const MOST_LIVE: usize = THREADS * (Lane::REGISTERED.len() * OPTIONS.len() + DEPTH + 1) + Lane::REGISTERED.len() + 1;

/// A callback with its arguments; each position of the second to the sixth is one more than that before.
type Code = unsafe extern "efiapi" fn(*const Ticket, usize, usize, usize, usize, usize) -> usize;

static SIGNATURE: LazyLock<Signature> = LazyLock::new(|| {
    let pointer_and_numbers = [Type::Pointer, Type::USIZE, Type::USIZE, Type::USIZE, Type::USIZE, Type::USIZE];
    Signature::new(Convention::C, &pointer_and_numbers, Some(Type::USIZE)).unwrap()
});

/// Who serves an item: a handler knows its own lane and must get no item of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Few,
    Many,
    Frame,
    Foreign,
    Typed,
}

impl Lane {
    const REGISTERED: [Self; 4] = [Self::Few, Self::Many, Self::Frame, Self::Foreign];
}

#[derive(Clone, Copy, Default)]
struct Promise {
    is_tracked: bool,
    is_exclusive: bool,
    is_contained: bool,
    is_saving: bool,
}

const PLAIN: Promise = Promise { is_tracked: false, is_exclusive: false, is_contained: false, is_saving: false };
const TRACKED: Promise = Promise { is_tracked: true, ..PLAIN };
const EXCLUSIVE: Promise = Promise { is_exclusive: true, ..TRACKED };
const CONTAINED: Promise = Promise { is_contained: true, ..PLAIN };
const OPTIONS: [Promise; 8] = [
    PLAIN,
    TRACKED,
    EXCLUSIVE,
    CONTAINED,
    Promise { is_contained: true, ..TRACKED },
    Promise { is_contained: true, ..EXCLUSIVE },
    Promise { is_saving: true, ..CONTAINED },
    Promise { is_saving: true, ..TRACKED },
];

/// The data of a registration. Items live for ever, since a call that a release overtakes may come late.
#[repr(C)]
struct Item {
    filter: ExceptionFilter,
    lane: Lane,
    promise: Promise,
    running: AtomicUsize,
}

fn items(kinds: impl IntoIterator<Item = (Lane, Promise)>) -> &'static [Item] {
    let item = |(lane, promise)| Item { filter, lane, promise, running: AtomicUsize::new(0) };
    kinds.into_iter().map(item).collect::<Vec<_>>().leak()
}

fn each_kind() -> impl Iterator<Item = (Lane, Promise)> {
    Lane::REGISTERED.into_iter().flat_map(|lane| OPTIONS.map(|promise| (lane, promise)))
}

impl Item {
    fn binding(&'static self) -> Binding {
        let data = (&raw const *self).cast_mut().cast();
        // SAFETY: the handlers are those of the lanes, and an item begins with a filter.
        unsafe {
            let mut binding = match self.lane {
                Lane::Few => Binding::direct(Convention::C, few as *const c_void, 2, data),
                Lane::Many | Lane::Typed => Binding::direct(Convention::C, many as *const c_void, 6, data),
                Lane::Frame => Binding::frame(frame as FrameHandler, &SIGNATURE, data),
                Lane::Foreign => Binding::frame_foreign(foreign as *const c_void, &SIGNATURE, data),
            };
            if self.promise.is_contained {
                binding = binding.contained();
            }
            if self.promise.is_saving {
                binding = binding.saving_control_words();
            }
            if self.promise.is_exclusive {
                binding = binding.exclusive();
            }
            if self.promise.is_tracked { binding.tracked() } else { binding }
        }
    }

    fn address(&self) -> usize {
        (&raw const *self).addr()
    }

    /// What a call returns.
    fn result(&self, salt: usize) -> usize {
        self.address() ^ salt
    }

    /// Notes that an exception ends; what the call returns then.
    fn faulted(&self) -> usize {
        self.running.fetch_sub(1, Ordering::Relaxed);
        FAULTS.fetch_add(1, Ordering::Relaxed);
        !self.address()
    }
}

/// One call, in the frame of who makes it.
struct Ticket {
    /// How often a handler ran, and for which item.
    ran: Cell<usize>,
    item: Cell<Option<&'static Item>>,
    wants_fault: bool,
    depth: usize,
}

/// What every handler does.
///
/// # Safety
/// The ticket must be that of a call.
unsafe fn run(lane: Lane, item: &'static Item, ticket: *const Ticket, numbers: [usize; 5]) -> usize {
    // SAFETY: by the caller's promise it lies in the frame of who called.
    let ticket = unsafe { &*ticket };
    let salt = numbers[0];
    assert_eq!(item.lane, lane, "a handler with the data of another");
    let running = item.running.fetch_add(1, Ordering::Relaxed);
    assert!(running == 0 || !item.promise.is_exclusive, "an exclusive handler is entered again");
    assert!(numbers.iter().enumerate().all(|(at, number)| *number == salt + at), "arguments: {numbers:?}");
    ticket.ran.set(ticket.ran.get() + 1);
    ticket.item.set(Some(item));
    if let Some(depth) = ticket.depth.checked_sub(1) {
        nest(depth, salt);
    }
    if ticket.wants_fault && item.promise.is_contained {
        match FAULTY.get() {
            // SAFETY: it lives, and its fault ends in this item's filter.
            Some(faulty) if salt % 2 == 0 => unsafe { faulty.code().cast::<unsafe extern "efiapi" fn()>()() },
            // SAFETY: as above.
            _ => unsafe { fault(std::ptr::null_mut()) },
        }
    }
    item.running.fetch_sub(1, Ordering::Relaxed);
    item.result(salt)
}

/// A tracked registration whose handler faults and contains nothing: the exception passes through its call.
static FAULTY: OnceLock<SlotKey> = OnceLock::new();

unsafe extern "efiapi" fn fault(_: *mut c_void) {
    // SAFETY: not at all; the fault is what is wanted.
    black_box(unsafe { std::ptr::without_provenance::<u8>(16).read_volatile() });
}

/// A handler calls whatever there is, or registers, calls and releases.
fn nest(depth: usize, salt: usize) {
    if salt % 2 == 0 {
        call(pick(salt / 2), depth, salt % 32 == 0, salt);
    } else {
        let item = &NESTED.get()[depth];
        let slot = register(item);
        call(slot.code().as_ptr(), depth, false, salt).must_be(item);
        release(slot, item);
    }
}

unsafe extern "efiapi" fn few(ticket: *const Ticket, salt: usize, item: &'static Item) -> usize {
    // SAFETY: callers pass a ticket; so for all below.
    unsafe { run(Lane::Few, item, ticket, [0, 1, 2, 3, 4].map(|more| salt + more)) }
}

unsafe extern "efiapi" fn many(
    ticket: *const Ticket,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    item: &'static Item,
) -> usize {
    // SAFETY: as above.
    unsafe { run(Lane::Many, item, ticket, [a, b, c, d, e]) }
}

unsafe extern "efiapi" fn frame(item: *mut c_void, frame: *mut RawFrame) {
    // SAFETY: the registration's data, and the dispatcher's frame.
    unsafe { run_frame(Lane::Frame, &*item.cast(), &mut Frame::new(&mut *frame, &SIGNATURE)) };
}

/// Of the convention that C has elsewhere, on Linux System V's.
unsafe extern "C" fn foreign(item: *mut c_void, frame: *mut RawFrame) {
    // SAFETY: as above.
    unsafe { run_frame(Lane::Foreign, &*item.cast(), &mut Frame::new(&mut *frame, &SIGNATURE)) };
}

unsafe fn run_frame(lane: Lane, item: &'static Item, frame: &mut Frame<'_>) {
    let ticket = frame.get::<*const c_void>(0).unwrap().cast();
    let numbers = [1, 2, 3, 4, 5].map(|at| frame.get::<usize>(at).unwrap());
    // SAFETY: as above.
    let result = unsafe { run(lane, item, ticket, numbers) };
    frame.set_result(result).unwrap();
}

unsafe extern "efiapi" fn filter(item: *mut c_void, _: *const Exception, outcome: *mut Outcome) -> Verdict {
    // SAFETY: the registration's data, and a frame of the call.
    let (item, mut frame) = unsafe { (&*item.cast::<Item>(), Frame::new(&mut (*outcome).frame, &SIGNATURE)) };
    frame.set_result(item.faulted()).unwrap();
    Verdict::RETURN
}

const STALE: usize = usize::MAX;

fn on_stale(call: &mut StaleCall<'_>) {
    STALE_REASON.set(Some(call.reason));
    STALE_RAN.fetch_add(1, Ordering::Relaxed);
    call.set_result(STALE as u64);
}

thread_local! {
    static STALE_REASON: Cell<Option<StaleReason>> = const { Cell::new(None) };
    /// Items for the registrations that this thread's handlers make.
    static NESTED: Cell<&'static [Item]> = const { Cell::new(&[]) };
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);
static STALE_SEEN: AtomicUsize = AtomicUsize::new(0);
static STALE_RAN: AtomicUsize = AtomicUsize::new(0);
/// Code pointers, live and stale, that every thread calls.
static BOARD: [AtomicPtr<c_void>; 256] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 256];

/// Some code pointer.
fn pick(number: usize) -> *const c_void {
    let code = BOARD[number % BOARD.len()].load(Ordering::Relaxed);
    if code.is_null() { pick(number + 1) } else { code }
}

enum CallEnd {
    Ran(&'static Item),
    Stale(StaleReason),
}

impl CallEnd {
    /// For a call of one's own live registration: only an exclusive one may refuse it.
    fn must_be(self, item: &Item) {
        match self {
            Self::Ran(ran) => assert_eq!(ran.address(), item.address(), "a handler ran with other data"),
            Self::Stale(reason) => {
                assert!(item.promise.is_exclusive && reason == StaleReason::Running, "a live entry: {reason:?}");
            }
        }
    }
}

/// The foreign code: calls with six positions, and looks whether the stack pointer comes back.
fn call(code: *const c_void, depth: usize, wants_fault: bool, salt: usize) -> CallEnd {
    let ticket = Ticket { ran: Cell::new(0), item: Cell::new(None), wants_fault, depth };
    let result: usize;
    let (before, after): (usize, usize);
    // SAFETY: every handler is of this type, or takes fewer arguments; nothing else is said of the stale one.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "mov r12, rsp", "sub rsp, 48", "mov [rsp + 32], r10", "mov [rsp + 40], r11", "call rax",
            "lea r13, [rsp + 48]", "mov rsp, r12",
            inout("rax") code => result, in("rcx") &ticket, in("rdx") salt, in("r8") salt + 1, in("r9") salt + 2,
            in("r10") salt + 3, in("r11") salt + 4, out("r12") before, out("r13") after, clobber_abi("win64"),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "x86")]
    unsafe {
        std::arch::asm!(
            "mov ebx, esp", "sub esp, 32", "mov [esp], edx", "mov [esp + 4], ecx",
            "inc ecx", "mov [esp + 8], ecx", "inc ecx", "mov [esp + 12], ecx", "inc ecx", "mov [esp + 16], ecx",
            "inc ecx", "mov [esp + 20], ecx", "call eax", "lea edi, [esp + 32]", "mov esp, ebx",
            inout("eax") code => result, in("edx") &ticket, in("ecx") salt, out("ebx") before, out("edi") after,
            clobber_abi("C"),
        );
    }
    CALLS.fetch_add(1, Ordering::Relaxed);
    assert_eq!(before, after, "the stack pointer after a call");
    match (ticket.item.get(), ticket.ran.get()) {
        (Some(item), 1) => {
            let faulted = wants_fault && item.promise.is_contained;
            assert_eq!(result, if faulted { !item.address() } else { item.result(salt) }, "the result of a call");
            CallEnd::Ran(item)
        }
        (None, 0) => {
            assert_eq!(result, STALE, "a call that nobody answered");
            let reason = STALE_REASON.take().expect("the stale handler said why");
            assert_ne!(reason, StaleReason::NeverRegistered, "a code pointer is learned from its registration");
            REFUSED.fetch_add(usize::from(reason == StaleReason::Running), Ordering::Relaxed);
            STALE_SEEN.fetch_add(1, Ordering::Relaxed);
            CallEnd::Stale(reason)
        }
        (_, ran) => panic!("a handler ran {ran} times in one call"),
    }
}

/// How often slots have been taken, and that number when each slot was last released: it must wait after all others.
static TAKEN: AtomicUsize = AtomicUsize::new(CAPACITY);
static RELEASED_AT: [AtomicUsize; CAPACITY] = [const { AtomicUsize::new(0) }; CAPACITY];

/// To be called after `TAKEN` has been counted up for it.
fn assert_rested(slot: SlotId) {
    let waited = TAKEN.load(Ordering::Relaxed) - RELEASED_AT[slot.index()].load(Ordering::Relaxed);
    assert!(waited >= CAPACITY.saturating_sub(MOST_LIVE), "slot {} is reused after {waited} others", slot.index());
}

fn before_release(slot: SlotId) {
    RELEASED_AT[slot.index()].store(TAKEN.load(Ordering::Relaxed), Ordering::Relaxed);
}

fn assert_over(item: &Item) {
    let running = item.running.load(Ordering::Relaxed);
    assert!(
        running == 0 || !item.promise.is_tracked,
        "{running} calls run after the release of a tracked registration"
    );
}

fn register(item: &'static Item) -> SlotKey {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    let key = table::register(&item.binding()).unwrap();
    assert_rested(key.slot());
    key
}

fn release(key: SlotKey, item: &Item) {
    before_release(key.slot());
    // SAFETY: the same key once more, to see that it is of no use.
    let again = unsafe { key.slot().key() };
    table::release(key).unwrap();
    assert_over(item);
    assert_eq!(table::release(again).unwrap_err().error, ReleaseError::NotLive, "a slot is released once");
}

/// One thread's own.
struct Worker {
    random: u64,
    /// Items and their keys while they have one.
    own: Vec<(&'static Item, Option<SlotKey>)>,
    shared: Vec<(&'static Item, SlotKey)>,
    typed: [&'static Item; 3],
}

impl Worker {
    fn new(number: usize) -> Self {
        NESTED.set(items([(Lane::Many, PLAIN); DEPTH]));
        let [tracked, exclusive, contained] = items([
            (Lane::Typed, TRACKED),
            (Lane::Typed, EXCLUSIVE),
            (Lane::Typed, Promise { is_contained: true, ..TRACKED }),
        ]) else {
            unreachable!()
        };
        let own = items(each_kind()).iter().map(|item| (item, None)).collect();
        Self { random: number as u64 + 1, own, shared: Vec::with_capacity(16), typed: [tracked, exclusive, contained] }
    }

    /// A number below `end` (xorshift).
    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 8) as usize % end
    }

    fn publish(&mut self, slot: SlotId) {
        BOARD[self.below(BOARD.len())].store(slot.code().as_ptr().cast_mut(), Ordering::Relaxed);
    }

    fn call(&mut self, code: *const c_void) -> CallEnd {
        let (depth, wants_fault) = (self.below(DEPTH + 1), self.below(8) == 0);
        call(code, depth, wants_fault, self.below(1 << 20))
    }

    fn step(&mut self) {
        match self.below(32) {
            0..6 => {
                let at = self.below(self.own.len());
                let (item, key) = &mut self.own[at];
                if let Some(key) = key.take() {
                    release(key, item);
                } else {
                    let slot = key.insert(register(item)).slot();
                    self.publish(slot);
                }
            }
            6 => {
                let item = &SHARED.get().unwrap()[self.below(Lane::REGISTERED.len())];
                if self.shared.len() == self.shared.capacity() {
                    let (_, key) = self.shared.swap_remove(0);
                    before_release(key.slot());
                    table::release(key).unwrap();
                } else {
                    TAKEN.fetch_add(1, Ordering::Relaxed);
                    let key = table::share(&item.binding()).unwrap();
                    self.publish(key.slot());
                    self.shared.push((item, key));
                }
                if let Some((item, key)) = self.shared.last() {
                    let (item, code) = (*item, key.code());
                    self.call(code.as_ptr()).must_be(item);
                }
            }
            7..10 => self.typed(),
            10..20 => {
                let at = self.below(self.own.len());
                if let (item, Some(key)) = &self.own[at] {
                    let (item, code) = (*item, key.code());
                    self.call(code.as_ptr()).must_be(item);
                }
            }
            _ => {
                let code = pick(self.below(BOARD.len()));
                self.call(code);
            }
        }
    }

    /// Closures, each for a while.
    fn typed(&mut self) {
        let [tracked, exclusive, contained] = self.typed;
        let options = Options::new().tracked();
        let run_typed = |item: &'static Item| {
            // SAFETY: as in the handlers above.
            move |ticket, a, b, c, d, e| unsafe { run(Lane::Typed, item, ticket, [a, b, c, d, e]) }
        };
        // SAFETY: as above.
        let run_dynamic = |item| move |frame: &mut Frame<'_>| unsafe { run_frame(Lane::Typed, item, frame) };
        TAKEN.fetch_add(1, Ordering::Relaxed);
        match self.below(6) {
            0 => self.visit(Callback::<Code>::from_ref_with(options, &run_typed(tracked)), tracked),
            1 => {
                let (mut calls, handler) = (0, run_typed(exclusive));
                let mut closure = |ticket, a, b, c, d, e| {
                    calls += 1;
                    handler(ticket, a, b, c, d, e)
                };
                self.visit(Callback::<Code>::from_mut(&mut closure), exclusive);
                black_box(calls);
            }
            2 => {
                // SAFETY: as above.
                let function = |item: &&'static Item, ticket, a, b, c, d, e| unsafe {
                    run(Lane::Typed, item, ticket, [a, b, c, d, e])
                };
                self.visit(Callback::<Code>::from_fn_with(options, &tracked, function), tracked);
            }
            3 => {
                let handler = Dynamic::new(SIGNATURE.clone(), run_dynamic(tracked));
                self.visit(Callback::from_dynamic_with(options, &handler), tracked);
            }
            4 => {
                let handler = Contained::new(run_typed(contained), |_| Some(contained.faulted()));
                // SAFETY: between the fault and the dispatcher nothing is to be dropped: see `fault`.
                let callback = unsafe { Callback::<Code>::from_contained_with(options, &handler) };
                self.visit(callback, contained);
            }
            _ => {
                let handler = Dynamic::new(SIGNATURE.clone(), run_dynamic(contained)).contained(|_, frame| {
                    frame.set_result(contained.faulted()).unwrap();
                    Verdict::RETURN
                });
                // SAFETY: as above.
                let callback = unsafe { Callback::from_contained_dynamic_with(options, &handler) };
                self.visit(callback, contained);
            }
        }
    }

    fn visit<F: FunctionPointer>(&mut self, callback: Result<Callback<'_, F>, Error>, item: &Item) {
        let callback = callback.unwrap();
        let slot = callback.slot();
        assert_rested(slot);
        self.publish(slot);
        for _ in 0..4 {
            self.call(slot.code().as_ptr()).must_be(item);
        }
        before_release(slot);
        drop(callback);
        assert_over(item);
    }
}

/// Items that all threads register, each in the shared form.
static SHARED: OnceLock<&'static [Item]> = OnceLock::new();
static IS_OVER: AtomicBool = AtomicBool::new(false);
static PAUSE: AtomicBool = AtomicBool::new(false);
static PAUSED: AtomicUsize = AtomicUsize::new(0);
static STEPS: [AtomicUsize; THREADS] = [const { AtomicUsize::new(0) }; THREADS];
/// What the threads that stand still own.
static OWNED: Mutex<Vec<SlotId>> = Mutex::new(Vec::new());

fn work(number: usize) {
    #[cfg(target_os = "linux")]
    signals::declare();
    let mut worker = Worker::new(number);
    while !IS_OVER.load(Ordering::Relaxed) {
        worker.step();
        STEPS[number].fetch_add(1, Ordering::Relaxed);
        if PAUSE.load(Ordering::Acquire) {
            let own = worker.own.iter().filter_map(|(_, key)| key.as_ref());
            let shared = worker.shared.iter().map(|(_, key)| key);
            OWNED.lock().unwrap().extend(own.chain(shared).map(SlotKey::slot));
            PAUSED.fetch_add(1, Ordering::Release);
            while PAUSE.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
            PAUSED.fetch_sub(1, Ordering::Release);
        }
    }
    worker.own.into_iter().for_each(|(item, key)| key.into_iter().for_each(|key| release(key, item)));
    worker.shared.into_iter().for_each(|(_, key)| table::release(key).unwrap());
}

/// The time that the program has run: not that for which it was stopped.
struct Clock {
    ran: Duration,
    steps: [usize; THREADS],
    idle: [Duration; THREADS],
}

impl Clock {
    /// Lets a moment pass. Fails if a thread that should work has not for long.
    fn tick(&mut self) {
        let start = Instant::now();
        thread::sleep(Duration::from_millis(20));
        let passed = start.elapsed().min(Duration::from_millis(500));
        self.ran += passed;
        for (number, steps) in STEPS.iter().enumerate() {
            let steps = steps.load(Ordering::Relaxed);
            self.idle[number] = if steps == self.steps[number] { self.idle[number] + passed } else { Duration::ZERO };
            self.steps[number] = steps;
            assert!(self.idle[number] < Duration::from_secs(60), "thread {number} hangs");
        }
    }
}

/// Kilobytes in memory.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// With all threads standing still.
fn check_table() {
    assert_eq!(STALE_RAN.load(Ordering::Relaxed), STALE_SEEN.load(Ordering::Relaxed), "stale calls");
    let mut owned: Vec<_> =
        OWNED.lock().unwrap().drain(..).chain(FAULTY.get().map(SlotKey::slot)).map(SlotId::index).collect();
    owned.sort_unstable();
    let entries: Vec<_> = table::list().collect();
    for entry in &entries {
        assert_eq!(entry.in_flight.unwrap_or(0), 0, "calls that run: {entry:?}");
    }
    let uses = |entry: &table::LiveSlot| std::iter::repeat_n(entry.slot.index(), entry.uses.max(1) as usize);
    let listed: Vec<_> = entries.iter().flat_map(uses).collect();
    assert!(owned == listed, "threads own {} uses of slots, and the table lists {}", owned.len(), listed.len());
    assert_eq!(table::live_count(), entries.len());
    // All others are free, and come back in the order of their release.
    let binding = idle_item().binding();
    let take = || table::register(&binding);
    let free: Vec<_> = (entries.len()..CAPACITY).map(|_| take().unwrap()).collect();
    assert!(matches!(take(), Err(Error::TableFull { .. })));
    let order: Vec<_> = free.iter().map(SlotKey::index).collect();
    free.into_iter().for_each(|key| table::release(key).unwrap());
    for expected in order.iter().take(100) {
        let key = take().unwrap();
        assert_eq!(key.index(), *expected, "the line of free slots");
        table::release(key).unwrap();
    }
    order.iter().for_each(|index| RELEASED_AT[*index].store(0, Ordering::Relaxed));
}

/// One that nobody calls.
fn idle_item() -> &'static Item {
    static ITEM: OnceLock<&'static [Item]> = OnceLock::new();
    &ITEM.get_or_init(|| items([(Lane::Few, PLAIN)]))[0]
}

#[test]
fn soak() {
    let seconds = std::env::var("CALLTABLE_SOAK_SECONDS").map_or(3.0, |seconds| seconds.parse().unwrap());
    let time = Duration::from_secs_f64(seconds);
    let round = (time / 6).clamp(Duration::from_millis(100), Duration::from_secs(10));
    // A thread that fails must stop all, and what it says must not be held back.
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(std::io::stderr(), "{info}");
        std::process::abort();
    }));
    // SAFETY: every callback of this program returns a number.
    unsafe { set_stale_handler(Some(on_stale)).unwrap() };
    #[cfg(target_os = "linux")]
    signals::declare();
    // SAFETY: the handler takes any data.
    let faulty = unsafe { Binding::direct(Convention::C, fault as *const c_void, 0, std::ptr::null_mut()) };
    FAULTY.set(table::register(&faulty.tracked()).unwrap()).unwrap();
    SHARED.set(items(Lane::REGISTERED.map(|lane| (lane, TRACKED)))).ok().unwrap();
    let never = table::register(&idle_item().binding()).unwrap();
    BOARD[0].store(never.code().as_ptr().cast_mut(), Ordering::Relaxed);
    table::release(never).unwrap();
    let mut clock = Clock { ran: Duration::ZERO, steps: [0; THREADS], idle: [Duration::ZERO; THREADS] };
    let mut warm = None;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || work(number))).collect();
        for count in 1.. {
            while clock.ran < round * count && clock.ran < time {
                clock.tick();
            }
            PAUSE.store(true, Ordering::Release);
            while PAUSED.load(Ordering::Acquire) < THREADS {
                clock.tick();
            }
            clock.idle = [Duration::ZERO; THREADS];
            check_table();
            let resident = resident();
            if count == 2 {
                warm = resident;
            }
            if let (Some(warm), Some(resident)) = (warm, resident) {
                assert!(resident <= warm + 1024, "{resident} kB in memory, after {warm} kB");
            }
            let number = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
            println!(
                "{:.1} s: {} calls, {} registrations, {} faults, {} stale calls ({} of running exclusive ones), {} kB",
                clock.ran.as_secs_f64(),
                number(&CALLS),
                number(&TAKEN) - CAPACITY,
                number(&FAULTS),
                number(&STALE_RAN),
                number(&REFUSED),
                resident.unwrap_or(0),
            );
            IS_OVER.store(clock.ran >= time, Ordering::Relaxed);
            PAUSE.store(false, Ordering::Release);
            while PAUSED.load(Ordering::Acquire) > 0 {
                clock.tick();
            }
            if clock.ran >= time {
                break;
            }
        }
        // The last releases, too, may hang.
        while !workers.iter().all(|worker| worker.is_finished()) {
            clock.tick();
        }
    });
    assert_eq!(table::live_count(), 1, "the one that faults");
    for counter in [&CALLS, &FAULTS, &STALE_RAN, &REFUSED] {
        assert_ne!(counter.load(Ordering::Relaxed), 0, "something never happened");
    }
}
