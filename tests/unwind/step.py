"""Run by gdb. Steps through each call that unwind_caller makes, one instruction at a time, and unwinds at each one.

What is right is known without any unwind data: return addresses are noted as CALL pushes them, and the caller's
registers are those that it had when it made the call. The plan (addresses as the program's file has them) comes as
JSON in the environment variable CALLTABLE_UNWIND; the report goes to the file that the plan names.
"""

import json
import os

import gdb

GENERATION = 1 << 24  # what a release adds to a context's state, and to its word of running calls (build.rs)
INTEGER = "rbx rbp rdi rsi rsp r12 r13 r14 r15".split()
VECTOR = ["xmm%d" % number for number in range(6, 16)]
RUBBISH = b"\xa5" * 0x400  # more than any lane takes
MOST_STEPS = 1000  # in one call; a call takes less than a tenth of it outside a loop

plan = json.loads(os.environ["CALLTABLE_UNWIND"])
problems = []
visited = set()
checked = 0
calls = 0


def vector(frame, register):
    """The two halves. Where there are YMM registers, gdb takes DWARF's XMM for YMM: only there it unwinds them."""
    try:
        return frame.read_register(register.replace("x", "y", 1))["v4_int64"]
    except ValueError:
        return frame.read_register(register)["v2_int64"]


def preserved(frame):
    low64 = (1 << 64) - 1
    values = {register: int(frame.read_register(register)) & low64 for register in INTEGER}
    for register in VECTOR:
        halves = vector(frame, register)
        values[register] = (int(halves[1]) & low64) << 64 | int(halves[0]) & low64
    return values


def control(frame):
    return {"mxcsr": int(frame.read_register("mxcsr")), "x87 control word": int(frame.read_register("fctrl")),
            "direction flag": int(frame.read_register("eflags")) >> 10 & 1}


def word(address):
    return int.from_bytes(gdb.selected_inferior().read_memory(address, 8).tobytes(), "little")


def differences(expected, found):
    return ["%s is %#x, not %#x" % (name, found[name], value) for name, value in expected.items() if found[name] != value]


class Call:
    """One call of an entry, from the caller's CALL to the instruction behind it."""

    def __init__(self, bias):
        self.bias = bias
        frame = gdb.newest_frame()
        self.expected, self.control = preserved(frame), control(frame)
        assert len(set(self.expected.values())) == len(self.expected), "the caller's registers are not all different"
        self.returned = plan["returned"] + bias

    def problem(self, pc, text):
        problems.append("call %d, at %#x (%s): %s" % (calls, pc - self.bias, self.instruction(pc), text))

    def instruction(self, pc):
        return gdb.selected_inferior().architecture().disassemble(pc)[0]["asm"]

    def inside(self, pc, start, end):
        return plan[start] <= pc - self.bias < plan[end]

    def check(self, pc, returns):
        """Compares the chain of frames with the noted return addresses, and the caller's registers in it."""
        global checked
        # An interrupt may write there at any moment: nothing may be looked for below RSP.
        stack = int(gdb.parse_and_eval("(unsigned long)$rsp"))
        gdb.selected_inferior().write_memory(stack - len(RUBBISH), RUBBISH)
        gdb.invalidate_cached_frames()
        frame, chain, caller = gdb.newest_frame(), [], None
        while frame is not None and len(chain) <= len(returns):
            chain.append(frame.pc())
            if frame.pc() == self.returned:
                caller = frame
            frame = frame.older()
        expected = [pc] + returns[::-1]
        if chain != expected:
            show = [[hex(address - self.bias) for address in addresses] for addresses in (chain, expected)]
            self.problem(pc, "the frames are %s, not %s" % tuple(show))
        elif caller is None:
            self.problem(pc, "the caller is not among the frames")
        else:
            for difference in differences(self.expected, preserved(caller)):
                self.problem(pc, "in the caller's frame " + difference)
        checked += 1

    def run(self, parent, alter):
        returns, pc = [parent], gdb.newest_frame().pc()
        resume, contained = plan["resume"] + self.bias, None  # what is to be answered when the contained call goes on
        for _ in range(MOST_STEPS):
            mnemonic = self.instruction(pc).split()[0]
            if alter and pc - self.bias in plan["compares"]:
                gdb.execute("set $r10 += %d" % GENERATION)  # as if the slot had been released meanwhile
                alter = False
            elif alter and pc - self.bias == plan["enters"]:
                gdb.execute("set $rax += %d" % GENERATION)  # the same: another generation is found there
                gdb.execute("set $r10 += %d" % GENERATION)
                alter = False
            gdb.execute("stepi", to_string=True)
            pc = gdb.newest_frame().pc()
            stack = int(gdb.parse_and_eval("(unsigned long)$rsp"))
            if mnemonic.startswith("call"):
                returns.append(word(stack))
            elif mnemonic.startswith("ret"):
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
        for difference in differences({**self.expected, **self.control}, {**preserved(frame), **control(frame)}):
            self.problem(pc, "back in the caller, " + difference)
        return int(gdb.parse_and_eval("(unsigned long)$rax"))


def step_all():
    global calls
    for setting in ("confirm off", "pagination off", "language c", "startup-with-shell off"):
        gdb.execute("set " + setting)
    gdb.Breakpoint("*unwind_caller")
    gdb.execute("run", to_string=True)
    gdb.execute("set scheduler-locking step")
    while gdb.selected_inferior().pid:
        bias = gdb.newest_frame().pc() - plan["caller"]
        alter = bool(int(gdb.parse_and_eval("(unsigned)$rsi")))
        parent = word(int(gdb.parse_and_eval("(unsigned long)$rsp")))
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
