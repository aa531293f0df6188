//! i686 Linux: the C runtime's unwinder finds the foreign caller and its registers from every instruction of a call.
//!
//! Where the dispatcher has a frame it is the entry that has called it; the caller of a handler that the entry jumps to
//! is the foreign code. The caller's frame is found through EBP; its ESP is found, too, but from the RET of a call by
//! stdcall, thiscall and fastcall, which comes after the return address has been moved over the arguments.
#![cfg(all(target_os = "linux", target_arch = "x86"))]

#[path = "seh/signals.rs"]
mod signals;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::fmt::Write as _;
use std::ptr::null_mut;
use std::sync::Once;

use calltable::seh::{Exception, ExceptionFilter, Outcome, Verdict};
use calltable::table::{self, Binding, Location, SlotKey};
use calltable::{Callback, Convention, Error, Options, Signature, Type, set_stale_handler};

std::arch::global_asm!(
    "
    .globl unwind_caller, unwind_returned, unwind_plain, unwind_plain_pops, unwind_wreck
    .type unwind_caller, @function
unwind_caller:
    .cfi_startproc
    push ebp
    .cfi_def_cfa_offset 8
    .cfi_offset ebp, -8
    mov ebp, esp
    .cfi_def_cfa_register ebp
    push ebx
    .cfi_offset ebx, -12
    push esi
    .cfi_offset esi, -16
    push edi
    .cfi_offset edi, -20
    sub esp, 0xa0
    and esp, -16
    sub esp, [ebp + 16]
    mov ecx, [ebp + 12]
    mov [ecx], ebp
    mov [ecx + 4], esp
    mov eax, [ebp + 8]
    mov ebx, 0x11111111
    mov esi, 0x22222222
    mov edi, 0x33333333
    mov ecx, 1
    mov edx, 2
    pushfd
    or dword ptr [esp], 0x100
    popfd
    call eax
unwind_returned:
    nop
    lea esp, [ebp - 12]
    pop edi
    pop esi
    pop ebx
    pop ebp
    .cfi_restore ebp
    .cfi_def_cfa esp, 4
    ret
    .cfi_endproc

    .type unwind_plain, @function
unwind_plain:
    .cfi_startproc
    mov eax, 7
    ret
    .cfi_endproc

    .type unwind_plain_pops, @function
unwind_plain_pops:
    .cfi_startproc
    mov eax, 7
    ret 16
    .cfi_endproc

    .type unwind_wreck, @function
unwind_wreck:
    .cfi_startproc
    mov eax, -1
    mov ebx, eax
    mov esi, eax
    mov edi, eax
    std
    ret
    .cfi_endproc
    "
);

unsafe extern "C" {
    /// Calls `code` under the trap flag, with marks in the registers that are preserved, and ESP that far below a
    /// multiple of 16; stores EBP, and ESP at the call.
    fn unwind_caller(code: *const c_void, stack: *mut [usize; 2], below: usize);
    static unwind_returned: u8;
    fn unwind_plain();
    /// For three words and the data.
    fn unwind_plain_pops();
    /// Keeps only ESP and EBP: by EBP the dispatcher's frame is found.
    fn unwind_wreck();

    // Of the C runtime's unwinder (Itanium C++ ABI).
    fn _Unwind_Backtrace(visit: unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32, data: *mut c_void) -> i32;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
    fn _Unwind_GetGR(context: *mut c_void, register: i32) -> usize;
}

thread_local! {
    /// EBP of `unwind_caller`, while it runs, and ESP at its call, and the entry that it calls.
    static STACK: Cell<[usize; 2]> = const { Cell::new([0; 2]) };
    static ENTRY: Cell<usize> = const { Cell::new(0) };
    /// Instructions of dispatchers from which the entry has not been found: it is called no more.
    static WITHOUT_ENTRY: Cell<usize> = const { Cell::new(0) };
    /// How often the handler of a call that is overtaken has run, or the stale one.
    static RAN: Cell<usize> = const { Cell::new(0) };
    /// What is to be released, and before which of the instructions of table and dispatchers.
    static OVERTAKING: Cell<Option<(SlotKey, usize)>> = const { Cell::new(None) };
    /// Whether its handler runs Rust, whose unwind data is the compiler's affair.
    static RUNS_RUST: Cell<bool> = const { Cell::new(false) };
    /// Instructions stepped, and those from which unwinding went wrong, with how.
    static STEPS: Cell<usize> = const { Cell::new(0) };
    static WRONG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// DWARF's numbers of EBX, EBP, ESI and EDI.
const REGISTERS: [i32; 4] = [3, 5, 6, 7];

fn returned() -> usize {
    (&raw const unwind_returned).addr()
}

/// What a walk finds.
#[derive(Debug, Default)]
struct Found {
    /// Where the functions further in are.
    places: Vec<usize>,
    /// In the frame of `unwind_caller`, ESP last.
    registers: Option<[usize; 5]>,
}

/// Walks to the frame of `unwind_caller`.
unsafe extern "C" fn visit(context: *mut c_void, found: *mut c_void) -> i32 {
    const GO_ON: i32 = 0;
    const STOP: i32 = 4;
    // SAFETY: the unwinder passes its context, and on what `on_step` passed.
    unsafe {
        let (found, place) = (&mut *found.cast::<Found>(), _Unwind_GetIP(context));
        if place != returned() {
            found.places.push(place);
            return GO_ON;
        }
        let [ebx, ebp, esi, edi] = REGISTERS.map(|register| _Unwind_GetGR(context, register));
        found.registers = Some([ebx, ebp, esi, edi, _Unwind_GetCFA(context)]);
    }
    STOP
}

/// Runs before each instruction under the trap flag, on a stack of its own.
unsafe extern "C" fn on_step(_: i32, _: *const libc::siginfo_t, context: *mut c_void) {
    const TRAP_FLAG: i32 = 0x100;
    const ENTRY_SIZE: usize = 16;
    // SAFETY: the system passes the state of the interrupted code, which a handler may change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let pc = registers[libc::REG_EIP as usize] as usize;
    if pc == returned() {
        registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
        return;
    }
    if let Some((key, left)) = OVERTAKING.take() {
        match left.checked_sub(usize::from(table::locate(pc as *const c_void).is_some())) {
            None => drop(table::try_release(key)),
            Some(left) => OVERTAKING.set(Some((key, left))),
        }
    }
    if RUNS_RUST.get() && table::locate(pc as *const c_void).is_none() {
        return;
    }
    STEPS.set(STEPS.get() + 1);
    let mut found = Found::default();
    // SAFETY: what is below ESP is nobody's, also if unwind data still counts on it; `visit` writes to `found`.
    unsafe {
        let top = std::ptr::with_exposed_provenance_mut::<[u8; 256]>(registers[libc::REG_ESP as usize] as usize);
        top.sub(1).write([0xcc; 256]);
        _Unwind_Backtrace(visit, (&raw mut found).cast());
    }
    // SAFETY: the instruction before which the program stands.
    let is_ret = unsafe { std::ptr::with_exposed_provenance::<u8>(pc).read() } == 0xc3;
    let [ebp, esp] = STACK.get();
    // At the RET the arguments have been removed; so it lies that much higher, as after it.
    let has_entry = found.places.iter().any(|place| place.wrapping_sub(ENTRY.get()) < ENTRY_SIZE);
    let removed = found.registers.map_or(0, |[.., found]| found.wrapping_sub(esp));
    let esp = if is_ret && !has_entry && removed <= 32 { esp + removed } else { esp };
    let want = [0x1111_1111, ebp, 0x2222_2222, 0x3333_3333, esp];
    let is_entry = |place: &usize| place.wrapping_sub(ENTRY.get()) < ENTRY_SIZE;
    let is_dispatcher = table::locate(pc as *const c_void) == Some(Location::Dispatcher);
    let is_right = match found.places.iter().filter(|place| is_entry(place)).count() {
        0 if is_dispatcher => {
            WITHOUT_ENTRY.set(WITHOUT_ENTRY.get() + 1);
            true
        }
        1 => found.places.last().is_some_and(is_entry),
        // For a call from a frame, its JMP leaves a return address in it on the stack.
        2 => is_entry(&pc) && found.places.last().is_some_and(is_entry),
        _ => false,
    };
    if found.registers != Some(want) || !is_right {
        WRONG.with_borrow_mut(|wrong| writeln!(wrong, "from {pc:#x}: {found:x?}").unwrap());
    }
}

/// What the data of contained handlers begins with.
static FILTER: ExceptionFilter = {
    unsafe extern "efiapi" fn filter(_: *mut c_void, _: *const Exception, _: *mut Outcome) -> Verdict {
        Verdict::RETURN
    }
    filter
};

unsafe extern "C" fn raise() {
    signals::raise(5, &[], null_mut());
}

/// From so many instructions no entry is found, since the dispatcher has taken its frame off: all of them if the callee
/// removes arguments, or the RET alone.
const REMOVES: usize = 5;
const REMOVES_NONE: usize = 1;
/// The foreign code calls the handler as if there was no dispatcher.
const NO_FRAME: usize = 0;

/// Steps through a call of a binding, from an ESP that is a multiple of 16, and from one that is not.
fn step_through(way: &str, binding: &Binding, expected: usize) {
    let slot = table::register(binding).unwrap();
    for below in [0, 4] {
        step_through_call(way, slot.code().as_ptr(), below, &[expected]);
    }
    table::release(slot).unwrap();
}

fn step_through_call(way: &str, code: *const c_void, below: usize, expected: &[usize]) {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: the handler only looks; zeros are an empty set of signals.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_step as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGTRAP, &action, null_mut()), 0);
        }
    });
    let mut stack = vec![0_u8; 0x1_0000];
    let set_stack = |ss_sp, ss_flags| {
        let stack = libc::stack_t { ss_sp, ss_flags, ss_size: 0x1_0000 };
        // SAFETY: it lives until another is set.
        assert_eq!(unsafe { libc::sigaltstack(&stack, null_mut()) }, 0);
    };
    set_stack(stack.as_mut_ptr().cast(), 0);
    ENTRY.set(code.addr());
    STEPS.set(0);
    WITHOUT_ENTRY.set(0);
    // SAFETY: the handlers take any arguments; the caller has room for more than they have.
    STACK.with(|stack| unsafe { unwind_caller(code, stack.as_ptr(), below) });
    set_stack(null_mut(), libc::SS_DISABLE);
    let (wrong, steps) = (WRONG.take(), STEPS.get());
    assert!(wrong.is_empty(), "{way}: of {steps} instructions, unwinding goes wrong\n{wrong}");
    assert!(steps > 15, "{way}: only {steps} instructions were seen");
    let without_entry = WITHOUT_ENTRY.get();
    assert!(expected.contains(&without_entry), "{way}: no entry was found from {without_entry} instructions");
    println!("{way}: {steps} instructions");
}

#[test]
fn the_caller_is_found_from_every_instruction_of_a_call() {
    for convention in [Convention::Stdcall, Convention::Cdecl, Convention::Thiscall, Convention::Fastcall] {
        let plain = if convention == Convention::Cdecl { unwind_plain } else { unwind_plain_pops };
        let signature = Signature::new(convention, &[Type::U32; 6], Some(Type::F64)).unwrap();
        let (handler, wreck) = (plain as *const c_void, unwind_wreck as *const c_void);
        // SAFETY: the handlers take these words and any data, and a frame that they do not look at.
        let ways = unsafe {
            let direct = Binding::direct(convention, handler, 3, null_mut());
            let frame: table::FrameHandler = std::mem::transmute(unwind_plain as *const c_void);
            let frame = Binding::frame(frame, &signature, null_mut());
            let foreign = Binding::frame_foreign(wreck, &signature, null_mut());
            [
                ("direct", direct),
                ("direct, saving", direct.saving()),
                ("direct, tracked", direct.tracked()),
                ("direct, exclusive, control words", direct.exclusive().saving_control_words()),
                ("frame", frame),
                ("frame, tracked", frame.tracked()),
                ("frame, foreign", foreign),
                ("frame, foreign, exclusive, control words", foreign.exclusive().saving_control_words()),
            ]
        };
        for (way, binding) in ways {
            let expected = if convention == Convention::Cdecl { REMOVES_NONE } else { REMOVES };
            step_through(&format!("{convention}, {way}"), &binding, expected);
        }
    }
    RUNS_RUST.set(true);
    let closure = |first: u32, second: u32| first.wrapping_add(second);
    let stdcall = Callback::<unsafe extern "stdcall" fn(u32, u32) -> u32>::from_ref(&closure).unwrap();
    let thiscall = Callback::<unsafe extern "thiscall" fn(u32, u32) -> u32>::from_ref(&closure).unwrap();
    let fastcall = Callback::<unsafe extern "fastcall" fn(u32) -> u32>::from_ref(&|only| only).unwrap();
    for (convention, slot, expected) in [
        ("stdcall", stdcall.slot(), REMOVES),
        ("thiscall", thiscall.slot(), REMOVES),
        ("fastcall", fastcall.slot(), REMOVES_NONE),
    ] {
        let code = slot.code().as_ptr();
        step_through_call(&format!("a {convention} closure, which the entry jumps to"), code, 0, &[NO_FRAME]);
        step_through_call(&format!("a {convention} closure, from a frame"), code, 4, &[expected]);
    }
    signals::declare();
    let data = (&raw const FILTER).cast_mut().cast();
    let signature = Signature::new(Convention::Cdecl, &[], Some(Type::F64)).unwrap();
    // SAFETY: a cdecl handler takes any arguments; the data begins with a filter.
    let ways = unsafe {
        let direct = Binding::direct(Convention::Cdecl, raise as *const c_void, 3, data).contained();
        let frame = Binding::frame_foreign(raise as *const c_void, &signature, data).contained();
        [("direct", direct), ("direct, tracked", direct.tracked()), ("frame", frame)]
    };
    for (way, binding) in ways {
        step_through(&format!("an exception of a contained handler, {way}"), &binding, REMOVES_NONE);
    }
    RUNS_RUST.set(false);
    // SAFETY: as above; without arguments it removes none.
    let wreck = unsafe { Binding::direct(Convention::Cdecl, unwind_wreck as *const c_void, 3, null_mut()) };
    step_through("cdecl, direct, saving, wrecking", &wreck.saving(), REMOVES_NONE);
}

type Filler = unsafe extern "stdcall" fn(i32) -> i32;

fn set_counting_stale_handler() {
    // SAFETY: all callbacks of this program return numbers.
    unsafe {
        set_stale_handler(Some(|_| {
            RAN.set(RAN.get() + 1);
        }))
        .unwrap();
    }
}

/// A release may overtake a call before any instruction. It is then on another way.
#[test]
fn the_caller_is_found_from_every_instruction_of_a_call_that_is_overtaken() {
    macro_rules! typed {
        ($abi:literal) => {
            (
                $abi,
                (|| {
                    let callback = Callback::<unsafe extern $abi fn(u32) -> u32>::from_ref(&|number| {
                        RAN.set(RAN.get() + 1);
                        number
                    });
                    let callback = callback.unwrap();
                    let slot = callback.slot();
                    let _ = callback.leak();
                    // SAFETY: nobody else releases it.
                    unsafe { slot.key() }
                }) as fn() -> SlotKey,
            )
        };
    }
    set_counting_stale_handler();
    RUNS_RUST.set(true);
    for (way, register) in [typed!("stdcall"), typed!("thiscall"), typed!("fastcall"), typed!("cdecl")] {
        // If it is stale, it has a frame; if not, a cdecl one has, too.
        let expected = if way == "stdcall" { [NO_FRAME, REMOVES] } else { [NO_FRAME, REMOVES_NONE] };
        for at in 0.. {
            let key = register();
            let code = key.code().as_ptr();
            OVERTAKING.set(Some((key, at)));
            step_through_call(&format!("{way}, overtaken before instruction {at}"), code, 0, &expected);
            assert_eq!(
                RAN.take(),
                1,
                "{way}, overtaken before instruction {at}: the closure runs, or the stale handler"
            );
            if let Some((key, _)) = OVERTAKING.take() {
                table::release(key).unwrap();
                assert!(at > 15, "{way}: only {at} instructions of table and dispatchers");
                break;
            }
        }
    }
}

/// Steps through a call of a slot that has no context yet, before `filler` makes all of them. It has a thread of its
/// own, so that nothing of it is on the stack later.
fn step_through_without_context(filler: fn() -> Result<Callback<'static, Filler>, Error>) {
    set_counting_stale_handler();
    let thread = std::thread::spawn(move || {
        let first = filler().unwrap().slot();
        let last = table::ENTRY_STRIDE * (table::CAPACITY - 1 - first.index());
        RUNS_RUST.set(true);
        let last = first.code().as_ptr().wrapping_byte_add(last);
        step_through_call("an entry without a context", last, 0, &[REMOVES_NONE]);
        assert_eq!(RAN.take(), 1);
    });
    thread.join().unwrap();
}

/// Calls with 7 as the only argument, by the way that the instruction passes it, and ESP so far below a multiple of 32.
macro_rules! call {
    ($code:expr, $pass:literal, $below:expr) => {{
        let result: i32;
        // SAFETY: the callee takes one number, and removes it from the stack if it is there; ESP is put back.
        unsafe {
            std::arch::asm!(
                "mov edi, esp",
                "and esp, -32",
                "sub esp, edx",
                $pass,
                "mov edx, 5",
                "call eax",
                "mov esp, edi",
                inout("eax") $code => result,
                inout("edx") $below => _,
                out("edi") _,
                clobber_abi("cdecl"),
            );
        }
        result
    }};
}

/// A closure that the entry has jumped to has nothing of the call on its stack, and one that is called from a frame the
/// slot's entry. It is called from a frame if it asks for that, or if the stack pointer is not what compilers rely on.
#[test]
fn nothing_of_a_call_is_on_the_stack_unless_it_has_a_frame() {
    unsafe extern "C" fn find(context: *mut c_void, found: *mut c_void) -> i32 {
        // SAFETY: the unwinder passes its context, and on what the closure passed.
        unsafe {
            let place = _Unwind_GetIP(context) as *const c_void;
            (*found.cast::<Vec<Location>>()).extend(table::locate(place));
        }
        0
    }
    struct Here<'a>(&'a RefCell<Vec<Location>>);
    // SAFETY: no other thread calls.
    unsafe impl Sync for Here<'_> {}
    let found = RefCell::new(Vec::new());
    let here = Here(&found);
    let closure = |number: i32| {
        let Here(found) = &here;
        // SAFETY: `find` writes to that.
        unsafe { _Unwind_Backtrace(find, (&raw mut *found.borrow_mut()).cast()) };
        number
    };
    let filler = || Callback::<Filler>::from_ref(&|number| number);
    step_through_without_context(filler);
    // So that generations are not 0, as counts of running calls are.
    drop((0..table::CAPACITY).map_while(|_| filler().ok()).collect::<Vec<_>>());
    macro_rules! check {
        ($($abi:literal $pass:literal $aligned:literal;)*) => { $(
            for (is_framed, options) in [(false, Options::new()), (true, Options::new().framed())] {
                let callback =
                    Callback::<unsafe extern $abi fn(i32) -> i32>::from_ref_with(options, &closure).unwrap();
                let slot = callback.slot().index();
                for below in (0..32).step_by(4) {
                    assert_eq!(call!(callback.code(), $pass, below), 7);
                    let has_frame = is_framed || below % 16 != $aligned;
                    let of_frame = vec![Location::Dispatcher, Location::Entry { slot }];
                    let expected = if has_frame { of_frame } else { vec![] };
                    assert_eq!(found.take(), expected, "{}, {options:?}, {below} below", $abi);
                }
            }
        )* };
    }
    check! {
        "stdcall" "push 7" 12;
        "thiscall" "mov ecx, 7" 0;
        "fastcall" "mov ecx, 7" 0;
    }
}
