"""Runs the tests of ctypes that CPython brings along, and then looks at where its closures come from.

Prints `ok NAME` or `FAILED NAME` for each, and `N passed, N failed` last.
"""

import argparse
import os
import sys
import traceback
import unittest


def mappings():
    """First address, address after the last, permissions and file of each."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(address, 16) for address in fields[0].split("-"))
            yield start, end, fields[1], fields[5] if len(fields) > 5 else ""


def made():
    """Executable memory that is of no file, or of one without a name, which can be written elsewhere."""

    def is_made(file):
        return not file.startswith("/") or file.startswith("/memfd:") or file.endswith(" (deleted)")

    return [(hex(start), file) for start, _, permissions, file in mappings() if "x" in permissions and is_made(file)]


# What the kernel or an emulator has put there.
before = made()

import ctypes  # noqa: E402: it makes a closure

passed = failed = 0


def case(name, holds):
    global passed, failed
    print("ok" if holds else "FAILED", name, flush=True)
    passed += bool(holds)
    failed += not holds


class Cases(unittest.TestResult):
    def addSuccess(self, test):
        case(test.id(), True)

    def addExpectedFailure(self, test, error):
        case(test.id(), True)

    def addUnexpectedSuccess(self, test):
        case(test.id(), False)

    def addError(self, test, error):
        traceback.print_exception(*error, file=sys.stdout)
        case(test.id(), False)

    addFailure = addError

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addError(subtest, error)


parser = argparse.ArgumentParser()
parser.add_argument("--library", type=os.path.realpath, required=True, help="where the code of closures must lie")
parser.add_argument("--refused", action="store_true", help="new executable memory must be refused")
parser.add_argument("--closures", action="store_true", help="without the tests of ctypes")
options = parser.parse_args()

if not options.closures:
    result = Cases()
    unittest.defaultTestLoader.loadTestsFromName("ctypes.test").run(result)
    print(f"{result.testsRun} tests of ctypes, {len(result.skipped)} skipped")
    case("ctypes has tests", passed > 0)

increment = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)
code = ctypes.cast(increment, ctypes.c_void_p).value
found = [file for start, end, _, file in mappings() if start <= code < end]
print(f"a closure's code lies in {found}")
case("closures are those of the library", found == [options.library] and increment(41) == 42)
added = [mapping for mapping in made() if mapping not in before]
print(f"executable memory that was made: {added}")
case("no code is made", not added)
if options.refused:
    PR_GET_MDWE = 66
    case("new executable memory is refused", ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) == 1)

print(f"{passed} passed, {failed} failed", flush=True)
sys.exit(failed > 0)
