"""Run by gdb. Steps through each call that unwind_caller makes, one instruction at a time, and unwinds at each one.

What is right is known without any unwind data: return addresses are noted as a call leaves them, and the caller's
registers are those that it had when it made the call. The plan (addresses as the program's file has them) comes as
JSON in the environment variable CALLTABLE_UNWIND; the report goes to the file that the plan names.
"""

import json
import os
import time

import gdb

GENERATION = 1 << 24  # what a release adds to a context's state, and to its word of running calls (build.rs)
RUBBISH = b"\xa5" * 0x400  # more than any lane takes
MOST_STEPS = 1000  # in one call; a call takes less than a tenth of it outside a loop

plan = json.loads(os.environ["CALLTABLE_UNWIND"])
problems = []
visited = set()
seen = set()
checked = 0
calls = 0


LOW64 = (1 << 64) - 1


class X86_64:
    STACK, RESULT, IS_RELEASED = "$rsp", "$rax", "$rsi"
    STATE, CALLS = "$r10", "$rax"  # where compares and enters (in the plan) have the generation
    INTEGER = "rbx rbp rdi rsi rsp r12 r13 r14 r15".split()
    VECTOR = ["xmm%d" % number for number in range(6, 16)]
    CALL, RETURN = "call", "ret"

    @staticmethod
    def vector(frame, register):
        """Both halves. Where there are YMM registers, gdb takes DWARF's XMM for YMM: only there it unwinds them."""
        try:
            halves = frame.read_register(register.replace("x", "y", 1))["v4_int64"]
        except ValueError:
            halves = frame.read_register(register)["v2_int64"]
        return (int(halves[1]) & LOW64) << 64 | int(halves[0]) & LOW64

    @staticmethod
    def control(frame):
        return {"mxcsr": int(frame.read_register("mxcsr")), "x87 control word": int(frame.read_register("fctrl")),
                "direction flag": int(frame.read_register("eflags")) >> 10 & 1}

    @staticmethod
    def returns_to():
        """After a call."""
        return word(number(X86_64.STACK))

    @staticmethod
    def at_returned(returned):
        """What else the caller has after the call."""
        return {}

    @staticmethod
    def entry(frame, older):
        """The address in the entry that a dispatcher's frame keeps: on the stack it is a frame's own."""
        return None


class AArch64:
    STACK, RESULT, IS_RELEASED = "$sp", "$x0", "$x1"
    STATE, CALLS = "$x10", "$x10"
    INTEGER = ["x%d" % number for number in range(18, 30)] + ["sp"]
    VECTOR = ["v%d" % number for number in range(8, 16)]
    CALL, RETURN = "bl", "ret"  # and blr

    @staticmethod
    def vector(frame, register):
        """The low half, which the convention preserves. Where there are Z registers (SVE), gdb unwinds these."""
        try:
            whole = frame.read_register(register.replace("v", "z", 1))
        except ValueError:
            whole = frame.read_register(register)
        return int(whole["d"]["u"][0]) & LOW64

    @staticmethod
    def control(frame):
        return {"fpcr": int(frame.read_register("fpcr"))}

    @staticmethod
    def returns_to():
        return number("$x30")

    @staticmethod
    def at_returned(returned):
        return {"x30": returned}

    @staticmethod
    def entry(frame, older):
        return word(int(older.read_register("sp")) - 16)


def number(expression):
    return int(gdb.parse_and_eval("(unsigned long)" + expression))


def preserved(frame, more=()):
    values = {register: int(frame.read_register(register)) & LOW64 for register in (*machine.INTEGER, *more)}
    values.update((register, machine.vector(frame, register)) for register in machine.VECTOR)
    return values


def word(address):
    return int.from_bytes(gdb.selected_inferior().read_memory(address, 8).tobytes(), "little")


def differences(expected, found):
    return ["%s is %#x, not %#x" % (name, found[name], value) for name, value in expected.items() if found[name] != value]


class Call:
    """One call of an entry, from the caller's CALL to the instruction behind it."""

    def __init__(self, bias):
        self.bias = bias
        frame = gdb.newest_frame()
        self.expected, self.control = preserved(frame), machine.control(frame)
        assert len(set(self.expected.values())) == len(self.expected), "the caller's registers are not all different"
        self.returned = plan["returned"] + bias
        self.entry = None  # what was called

    def problem(self, pc, text):
        problems.append("call %d, at %#x (%s): %s" % (calls, pc - self.bias, self.instruction(pc), text))

    def instruction(self, pc):
        return gdb.selected_inferior().architecture().disassemble(pc)[0]["asm"]

    def inside(self, pc, start, end):
        return plan[start] <= pc - self.bias < plan[end]

    def check(self, pc, returns):
        """Compares the chain of frames with the noted return addresses, and the caller's registers in it."""
        global checked
        # What unwind data say depends on the PC alone: the same frames are looked at once.
        if (pc, *returns) in seen:
            return
        seen.add((pc, *returns))
        # An interrupt may write there at any moment: nothing may be looked for below the stack pointer.
        gdb.selected_inferior().write_memory(number(machine.STACK) - len(RUBBISH), RUBBISH)
        gdb.invalidate_cached_frames()
        frame, chain, caller = gdb.newest_frame(), [], None
        while frame is not None and len(chain) <= len(returns):
            chain.append(frame.pc())
            if frame.pc() == self.returned:
                caller = frame
            older = frame.older()
            if frame.level() > 0 and self.inside(frame.pc(), "dispatchers", "end") and older is not None:
                entry = machine.entry(frame, older)
                if entry not in (None, self.entry + plan["entry_return"]):
                    self.problem(pc, "the frame at %#x has %#x for its entry" % (frame.pc() - self.bias, entry))
            frame = older
        expected = [pc] + returns[::-1]
        if chain != expected:
            show = [[hex(address - self.bias) for address in addresses] for addresses in (chain, expected)]
            self.problem(pc, "the frames are %s, not %s" % tuple(show))
        elif caller is None:
            self.problem(pc, "the caller is not among the frames")
        else:
            expected = {**self.expected, **machine.at_returned(self.returned)}
            for difference in differences(expected, preserved(caller, machine.at_returned(self.returned))):
                self.problem(pc, "in the caller's frame " + difference)
        checked += 1

    def run(self, parent, alter):
        returns, pc = [parent], gdb.newest_frame().pc()
        resume, contained = plan["resume"] + self.bias, None  # what is to be answered when the contained call goes on
        for _ in range(MOST_STEPS):
            mnemonic = self.instruction(pc).split()[0]
            if alter and pc - self.bias in plan["compares"]:
                gdb.execute("set %s += %d" % (machine.STATE, GENERATION))  # as if the slot had been released
                alter = False
            elif alter and pc - self.bias in plan["enters"]:
                for register in {machine.CALLS, machine.STATE}:  # the same: another generation is found there
                    gdb.execute("set %s += %d" % (register, GENERATION))
                alter = False
            gdb.execute("stepi", to_string=True)
            pc = gdb.newest_frame().pc()
            if mnemonic.startswith(machine.CALL):
                returns.append(machine.returns_to())
                self.entry = self.called(pc)
            elif mnemonic.startswith(machine.RETURN):
                if pc != returns.pop():
                    self.problem(pc, "RET came back to another address than its CALL noted")
            if pc == self.returned and len(returns) == 1:
                break
            if pc - self.bias == plan["contain"]:
                contained = returns[:]
            if self.inside(pc, "table", "end"):
                visited.add(pc - self.bias)
                self.check(pc, returns)
            elif self.inside(pc, "handlers", "handlers_end"):
                self.check(pc, returns)
            else:  # compiled code: run to its end, or to where an exception that it raises has the call go on
                stops = [gdb.Breakpoint("*%d" % place, internal=True) for place in (returns[-1], resume)]
                gdb.execute("continue", to_string=True)
                for stop in stops:
                    stop.delete()
                pc = gdb.newest_frame().pc()
                if pc == resume:
                    returns = contained
                elif pc != returns.pop():
                    raise RuntimeError("call %d stopped at %#x inside a function called by the dispatchers" % (calls, pc))
                visited.add(pc - self.bias)
                self.check(pc, returns)
        else:
            raise RuntimeError("call %d does not come to its end" % calls)
        frame = gdb.newest_frame()
        for difference in differences({**self.expected, **self.control}, {**preserved(frame), **machine.control(frame)}):
            self.problem(pc, "back in the caller, " + difference)
        return number(machine.RESULT)

    def called(self, pc):
        """The entry, if that has been called; else the one of before."""
        return pc if self.inside(pc, "table", "dispatchers") else self.entry


machine = {"x86_64": X86_64, "aarch64": AArch64}[plan["architecture"]]


def connect():
    """To an emulator that has been started, and listens soon."""
    for _ in range(200):
        try:
            return gdb.execute("target remote " + plan["remote"], to_string=True)
        except gdb.error as error:
            last = error
            time.sleep(0.1)
    raise last


def step_all():
    global calls
    for setting in ("confirm off", "pagination off", "language c", "startup-with-shell off"):
        gdb.execute("set " + setting)
    if plan["remote"]:
        connect()
        gdb.Breakpoint("*unwind_caller")
        gdb.execute("continue", to_string=True)
    else:
        gdb.Breakpoint("*unwind_caller")
        gdb.execute("run", to_string=True)
    gdb.execute("set scheduler-locking step")
    while gdb.selected_inferior().pid:
        bias = gdb.newest_frame().pc() - plan["caller"]
        alter = bool(number(machine.IS_RELEASED) & 0xffffffff)
        parent = machine.returns_to()
        gdb.execute("tbreak *%d" % (plan["call"] + bias), to_string=True)
        gdb.execute("continue", to_string=True)
        calls += 1
        result = Call(bias).run(parent, alter)
        if alter and result != plan["stale"]:
            problems.append("call %d returned %d though its slot was released before it compared" % (calls, result))
        gdb.execute("continue", to_string=True)


try:
    step_all()
    exit_code = int(gdb.parse_and_eval("$_exitcode"))
except Exception as error:  # whatever it is, the test must hear of it
    problems.append("%s: %s" % (type(error).__name__, error))
    exit_code = -1
with open(plan["report"], "w") as report:
    for line in [calls, checked, exit_code, " ".join(str(pc) for pc in sorted(visited))] + problems[:20]:
        print(line, file=report)
gdb.execute("kill" if gdb.selected_inferior().pid else "info inferiors", to_string=True)
