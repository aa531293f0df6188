-- Callbacks that Windows calls on other threads than the interpreter's.

local kernel32 = ffi.load("kernel32.dll")
local START = "stdcall u32(pointer)"
local CreateThread =
    kernel32:func("CreateThread", "stdcall pointer(pointer, usize, fn " .. START .. ", pointer, u32, pointer)")
local ResumeThread = kernel32:func("ResumeThread", "stdcall u32(pointer)")
local WaitForSingleObject = kernel32:func("WaitForSingleObject", "stdcall u32(pointer, u32)")
local GetExitCodeThread = kernel32:func("GetExitCodeThread", "stdcall i32(pointer, pointer)")
local GetCurrentThreadId = kernel32:func("GetCurrentThreadId", "stdcall u32()")
local CloseHandle = kernel32:func("CloseHandle", "stdcall i32(pointer)")
local Sleep = kernel32:func("Sleep", "stdcall void(u32)")
local SUSPENDED, INFINITE, WAIT_OBJECT_0 = 4, 0xffffffff, 0

local function ended(thread, milliseconds) return WaitForSingleObject(thread, milliseconds) == WAIT_OBJECT_0 end
local function exit_code(thread)
    assert(ended(thread, INFINITE))
    local code = ffi.buffer(4)
    assert(GetExitCodeThread(thread, code) ~= 0 and CloseHandle(thread) ~= 0)
    return (string.unpack("I4", ffi.bytes(code, 4)))
end

-- Refused: the thread gets zero, and the foreign call that was under way raises an error.
local ran = 0
local refused = ffi.callback(START, function()
    ran = ran + 1
    return 7
end)
local thread = CreateThread(nil, 0, refused, nil, SUSPENDED, nil)
local ok, message = pcall(function()
    ResumeThread(thread)
    ended(thread, INFINITE)
end)
assert(not ok and tostring(message):find("from another thread was refused", 1, true), message)
print(tostring(message):match("[^\n]*"))
assert(exit_code(thread) == 0 and ran == 0)
-- On the interpreter's own thread the same callback runs.
assert(ffi.func(refused, START)(nil) == 7 and ran == 1)
refused:release()

-- Handed over: the thread waits until the interpreter runs its call.
local home = GetCurrentThreadId()
local queued = ffi.queued(START, function(number)
    assert(GetCurrentThreadId() == home)
    return number * number
end)
local threads, served = {}, 0
for n = 1, 20 do threads[n] = CreateThread(nil, 0, queued, n, 0, nil) end
for n, thread in ipairs(threads) do
    while not ended(thread, 0) do served = served + ffi.serve(100) end
    assert(exit_code(thread) == n * n)
end
assert(served == #threads, served)
assert(ffi.serve(1) == 0)
print(("%d threads were served"):format(served))

-- A release does not disturb a call that waits already.
thread = CreateThread(nil, 0, queued, 12, 0, nil)
Sleep(200)
queued:release()
assert(ffi.serve(10000) == 1 and exit_code(thread) == 144)

-- An error is raised by `ffi.serve`.
local failing <close> = ffi.queued(START, function(number) error("thread " .. number) end)
thread = CreateThread(nil, 0, failing, 5, 0, nil)
ok, message = pcall(ffi.serve, 10000)
assert(not ok and message:find("thread 5", 1, true), message)
assert(exit_code(thread) == 0)

print("threads: all as expected")
