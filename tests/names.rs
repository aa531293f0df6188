//! What registrations are called: in lists, and for calls that are refused. Without the feature, nothing.

use std::ffi::c_void;
use std::sync::Mutex;

use calltable::table::{self, Binding, SlotKey};
use calltable::{
    CAPACITY, Callback, Contained, Convention, Dynamic, Error, Options, Signature, StaleCall, StaleReason,
};

type Nullary = unsafe extern "efiapi" fn() -> i32;

/// One at a time: slots are reused, and the stale handler is the program's.
static TABLE: Mutex<()> = Mutex::new(());

/// The last call that was refused.
static REFUSED: Mutex<Option<(StaleReason, Option<&str>)>> = Mutex::new(None);

fn note(call: &mut StaleCall<'_>) {
    *REFUSED.lock().unwrap() = Some((call.reason, call.name));
}

/// What there is of a name.
fn kept(name: &str) -> Option<&str> {
    cfg!(feature = "names").then_some(name)
}

unsafe extern "efiapi" fn answer(_: *mut c_void) -> i32 {
    42
}

fn binding(data: usize) -> Binding {
    let data = std::ptr::without_provenance_mut(data);
    // SAFETY: the handler takes any data.
    unsafe { Binding::direct(Convention::C, answer as *const c_void, 0, data) }
}

fn code_of(key: &SlotKey) -> Nullary {
    // SAFETY: every callback of this program is of that type, or is not called.
    unsafe { key.code().cast() }
}

/// Registers until the slot comes round again; the others are released.
fn take_again(index: usize, binding: &Binding) -> SlotKey {
    let mut others = Vec::new();
    let found = loop {
        let key = table::register(binding).expect("its slot is free");
        if key.index() == index {
            break key;
        }
        others.push(key);
    };
    others.into_iter().for_each(|key| table::release(key).unwrap());
    found
}

/// The name that a list and a look at the slot show.
fn name_of(key: &SlotKey) -> Option<&'static str> {
    let shown = table::live_slot(key.index()).unwrap().name;
    let mut listed = table::list().filter(|live| live.slot == key.slot());
    assert_eq!(listed.next().unwrap().name, shown);
    shown
}

#[test]
fn lists_show_names_and_the_next_registration_has_its_own() {
    let _table = TABLE.lock();
    let (named, plain) = (table::register(&binding(0).named("first")).unwrap(), table::register(&binding(0)).unwrap());
    assert_eq!((name_of(&named), name_of(&plain)), (kept("first"), None));
    let index = named.index();
    table::release(named).unwrap();
    let next = take_again(index, &binding(0));
    assert_eq!(name_of(&next), None, "it has the name of the one before");
    table::release(next).unwrap();
    let next = take_again(index, &binding(0).named("second").tracked());
    assert_eq!(name_of(&next), kept("second"));
    [next, plain].into_iter().for_each(|key| table::release(key).unwrap());
}

#[test]
fn of_a_shared_registration_the_first_name_stays() {
    let _table = TABLE.lock();
    for first in [binding(1).named("first"), binding(2)] {
        let keys = [first, first.named("later")].map(|binding| table::share(&binding).unwrap());
        assert!(keys.iter().all(|key| key.slot() == keys[0].slot()), "a name is no part of what is equal");
        assert_eq!(name_of(&keys[0]), first_name(&first));
        keys.into_iter().for_each(|key| table::release(key).unwrap());
    }
}

/// The name that a registration of it gets.
fn first_name(binding: &Binding) -> Option<&'static str> {
    let key = table::register(binding).unwrap();
    let name = name_of(&key);
    table::release(key).unwrap();
    name
}

#[test]
fn every_kind_of_callback_can_have_a_name() {
    let _table = TABLE.lock();
    const NAMED: Options = Options::new().named("a callback").tracked();
    let shown = |slot: table::SlotId| table::live_slot(slot.index()).unwrap().name;
    let (closure, mut exclusive) = (|| 1, || 2);
    let shared = Callback::<Nullary>::from_ref_with(NAMED, &closure).unwrap();
    assert_eq!(shown(shared.slot()), kept("a callback"));
    let exclusive = Callback::<Nullary>::from_mut_with(NAMED, &mut exclusive).unwrap();
    assert_eq!(shown(exclusive.slot()), kept("a callback"));
    fn double(number: &i32) -> i32 {
        2 * number
    }
    let function = Callback::<Nullary>::from_fn_with(NAMED, &21, double).unwrap();
    assert_eq!(shown(function.slot()), kept("a callback"));
    let dynamic = Dynamic::new(Signature::new(Convention::C, &[], None).unwrap(), |_| {});
    let dynamic = Callback::from_dynamic_with(NAMED, &dynamic).unwrap();
    assert_eq!(shown(dynamic.slot()), kept("a callback"));
    let contained = Contained::new(|| 3, |_: &calltable::seh::Exception| None::<i32>);
    // SAFETY: the closure holds nothing.
    match unsafe { Callback::<Nullary>::from_contained_with(NAMED, &contained) } {
        Ok(contained) => assert_eq!(shown(contained.slot()), kept("a callback")),
        Err(error) => assert_eq!(error, calltable::Error::NoExceptions),
    }
    #[cfg(feature = "alloc")]
    {
        let own = Callback::<Nullary>::new_with(NAMED, || 4).unwrap();
        assert_eq!(shown(own.slot()), kept("a callback"));
    }
}

#[test]
fn a_refused_call_is_told_the_name_of_its_registration() {
    let _table = TABLE.lock();
    // SAFETY: 0 is a value of each callback that is refused here.
    unsafe { calltable::set_stale_handler(Some(note)).unwrap() };
    // SAFETY: what is not live is refused.
    let refused = |code: Nullary| match unsafe { code() } {
        0 => REFUSED.lock().unwrap().take().expect("the stale handler has run"),
        ran => panic!("it ran: {ran}"),
    };
    let key = table::register(&binding(0).named("gone")).unwrap();
    let (code, index) = (code_of(&key), key.index());
    table::release(key).unwrap();
    assert_eq!(refused(code), (StaleReason::Released, kept("gone")));
    // Again, and without a name.
    let key = take_again(index, &binding(0));
    table::release(key).unwrap();
    assert_eq!(refused(code), (StaleReason::Released, None));

    let mut within = None;
    let mut again = || {
        within = Some(refused(code_again()));
        1
    };
    let options = Options::new().named("busy");
    let callback = Callback::<Nullary>::from_mut_with(options, &mut again).unwrap();
    *AGAIN.lock().unwrap() = Some(callback.code());
    // SAFETY: it lives.
    assert_eq!(unsafe { callback.code()() }, 1);
    drop(callback);
    assert_eq!(within, Some((StaleReason::Running, kept("busy"))));
}

/// What calls itself.
static AGAIN: Mutex<Option<Nullary>> = Mutex::new(None);

fn code_again() -> Nullary {
    AGAIN.lock().unwrap().expect("it is set before the call")
}

/// Fills the table with registrations of these names, the last of them in what is left, and returns what is said then.
fn fill(names: &[(Option<&'static str>, usize)]) -> (table::Users, String) {
    assert_eq!(table::live_count(), 0);
    let all = names.iter().flat_map(|(name, count)| std::iter::repeat_n(*name, *count));
    let named = |name: Option<&'static str>| name.map_or(binding(0), |name| binding(0).named(name));
    // In turns, as programs register.
    let mut order: Vec<_> = all.take(CAPACITY).enumerate().collect();
    assert_eq!(order.len(), CAPACITY);
    order.sort_by_key(|(index, _)| index * 7919 % CAPACITY);
    let keys: Vec<_> = order.into_iter().map(|(_, name)| table::register(&named(name)).unwrap()).collect();
    let error = table::register(&binding(0).named("one too many")).unwrap_err();
    let Error::TableFull { users } = error else { panic!("{error}") };
    assert_eq!(table::share(&binding(1)).unwrap_err(), error);
    assert_eq!(table::users(), users);
    keys.into_iter().for_each(|key| table::release(key).unwrap());
    assert_eq!((table::users().largest().count(), table::users().unnamed()), (0, 0), "nobody has a slot");
    (users, error.to_string())
}

#[test]
fn a_full_table_says_who_has_its_slots_and_what_makes_more() {
    const TENTH: usize = CAPACITY / 10;
    let _table = TABLE.lock();
    let a_copy: &str = Box::leak(String::from("hooks").into_boxed_str()); // equal, and elsewhere
    let names = [
        (Some("few"), 1),
        (Some("hooks"), TENTH),
        (Some("windows"), 3 * TENTH),
        (None, TENTH),
        (Some(a_copy), TENTH),
        (Some("timers"), CAPACITY),
    ];
    let (users, sentence) = fill(&names);
    if cfg!(feature = "names") {
        let timers = CAPACITY - 6 * TENTH - 1;
        let largest: Vec<_> = users.largest().collect();
        assert_eq!(largest, [("timers", timers), ("windows", 3 * TENTH), ("hooks", 2 * TENTH)]);
        assert_eq!(users.unnamed(), TENTH);
        let list = format!(
            "({timers} are of \"timers\", {} of \"windows\", {} of \"hooks\", {TENTH} have no name)",
            3 * TENTH,
            2 * TENTH
        );
        assert!(sentence.contains(&list), "{sentence}");
    } else {
        assert_eq!((users.largest().count(), users.unnamed()), (0, CAPACITY));
    }
    for wanted in [&format!("no slot of {CAPACITY} is free"), "CALLTABLE_CAPACITY", "slots-4000 to slots-65536"] {
        assert!(sentence.contains(wanted), "{sentence}");
    }
}

/// More names than are counted at a time: who has more than a ninth is found.
#[cfg(feature = "names")]
#[test]
fn the_largest_user_is_found_among_many() {
    let _table = TABLE.lock();
    let each: &'static [String] = Box::leak((0..CAPACITY).map(|n| format!("number {n}")).collect());
    let most = CAPACITY / 9 + 1;
    let others = each.iter().map(|name| (Some(name.as_str()), 1));
    for at in [0, CAPACITY / 2, CAPACITY - most] {
        let large = std::iter::once((Some("large"), most));
        let names: Vec<_> = others.clone().take(at).chain(large).chain(others.clone().skip(at)).collect();
        let (users, _) = fill(&names);
        assert_eq!(users.largest().next(), Some(("large", most)));
        assert!(users.largest().skip(1).all(|(name, count)| name.starts_with("number ") && count == 1), "{users}");
    }
}

/// One that waits for a call has its slot still.
#[cfg(feature = "names")]
#[test]
fn a_released_slot_whose_call_runs_is_counted() {
    static KEPT: Mutex<Option<SlotKey>> = Mutex::new(None);

    unsafe extern "efiapi" fn release(_: *mut c_void) -> i32 {
        let key = KEPT.lock().unwrap().take().unwrap();
        *KEPT.lock().unwrap() = Some(table::release_at_once(key).unwrap_err().handle);
        i32::from(table::live_count() == 1 && table::users().largest().eq([("busy", 1)]))
    }
    let _table = TABLE.lock();
    // SAFETY: the handler takes any data.
    let binding =
        unsafe { Binding::direct(Convention::C, release as *const c_void, 0, std::ptr::null_mut()).tracked() };
    let key = table::register(&binding.named("busy")).unwrap();
    let code = code_of(&key);
    *KEPT.lock().unwrap() = Some(key);
    // SAFETY: the slot is live.
    assert_eq!(unsafe { code() }, 1);
    table::release(KEPT.lock().unwrap().take().unwrap()).unwrap();
}

/// Nobody will release it, and its slot is taken as long as it runs.
#[cfg(feature = "alloc")]
#[test]
fn a_call_that_ended_its_registration_has_its_slot() {
    let _table = TABLE.lock();
    let count = || i32::from(table::users().largest().eq([("once", 1)]) && table::live_count() == 1);
    let once = Callback::<Nullary>::once_with(Options::new().named("once"), count).unwrap();
    // SAFETY: it lives.
    assert_eq!(unsafe { once.code()() }, i32::from(cfg!(feature = "names")));
    assert_eq!((table::users().largest().count(), table::users().unnamed()), (0, 0), "the call has ended");
}

/// A thread has the lock again and again; a call that had to wait for it would always know the name.
#[cfg(feature = "names")]
#[test]
fn a_refused_call_does_not_wait_for_a_name() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    let _table = TABLE.lock();
    // SAFETY: as above.
    unsafe { calltable::set_stale_handler(Some(note)).unwrap() };
    let key = table::register(&binding(0).named("gone")).unwrap();
    let (code, slot) = (code_of(&key), key.slot());
    table::release(key).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(!table::list().any(|live| live.slot == slot));
            }
        });
        let (start, mut seen) = (Instant::now(), [false; 2]);
        while seen != [true; 2] && start.elapsed() < Duration::from_secs(60) {
            // SAFETY: the call is stale.
            unsafe { code() };
            match REFUSED.lock().unwrap().take() {
                Some((StaleReason::Released, Some("gone"))) => seen[1] = true,
                Some((StaleReason::Released, None)) => seen[0] = true,
                other => panic!("{other:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(seen, [true; 2], "without a name, with one");
    });
}

/// The thread that has the lock is stopped at each instruction of a registration and of its release, and a refused call
/// is made there, as an interrupt handler might: it would wait for ever.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "x86"), feature = "names"))]
#[test]
fn a_refused_call_that_interrupts_the_holder_of_the_lock_has_no_name() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use calltable_callers::{Registers, calltable_call_with};

    const TRAP_FLAG: usize = 1 << 8;
    static RETURNED: AtomicBool = AtomicBool::new(false);
    static STALE: AtomicUsize = AtomicUsize::new(0);
    static SEEN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

    fn count(call: &mut StaleCall<'_>) {
        SEEN[usize::from(call.name == Some("gone"))].fetch_add(1, Ordering::Relaxed);
    }
    /// Of the signal's own stack frame only the flags are changed, in the end.
    extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
        if RETURNED.load(Ordering::Relaxed) {
            // SAFETY: the kernel passes the context of the interrupted code.
            let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
            registers[libc::REG_EFL as usize] &= !TRAP_FLAG as libc::greg_t; // the rest runs without traps
            return;
        }
        // SAFETY: the address of an entry that is not live.
        unsafe { std::mem::transmute::<usize, Nullary>(STALE.load(Ordering::Relaxed))() };
    }
    unsafe extern "efiapi" fn register_and_release(_: *mut c_void) {
        let key = table::register(&binding(0)).unwrap();
        table::release(key).unwrap();
        RETURNED.store(true, Ordering::Relaxed);
    }
    let _table = TABLE.lock();
    // SAFETY: as above; the signal is for nothing else here.
    unsafe {
        calltable::set_stale_handler(Some(count)).unwrap();
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
    }
    let key = table::register(&binding(0).named("gone")).unwrap();
    STALE.store(code_of(&key) as usize, Ordering::Relaxed);
    table::release(key).unwrap();
    // SAFETY: the handler takes any data.
    let traced =
        unsafe { Binding::direct(Convention::C, register_and_release as *const c_void, 0, std::ptr::null_mut()) };
    let traced = table::register(&traced).unwrap();
    // SAFETY: numbers.
    let zeros: Registers = unsafe { std::mem::zeroed() };
    let before = Registers { flags: (2 | TRAP_FLAG) as _, mxcsr: 0x1f80, x87_control: 0x37f, ..zeros };
    let mut after = before;
    // SAFETY: the handler takes no arguments; a trap changes nothing.
    unsafe { calltable_call_with(traced.code().as_ptr(), &before, &mut after) };
    table::release(traced).unwrap();
    let [without, with] = SEEN.each_ref().map(|seen| seen.load(Ordering::Relaxed));
    assert!(without > 10 && with > 10, "{without} calls without a name, {with} with it");
}
