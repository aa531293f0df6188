-- Lua closures as callbacks of Windows: a window class, timers, EnumWindows, qsort.

local user32, kernel32, msvcrt = ffi.load("user32.dll"), ffi.load("kernel32.dll"), ffi.load("msvcrt.dll")

local WINDOW_PROCEDURE = "stdcall isize(pointer, u32, usize, isize)"
local TIMER_PROCEDURE = "stdcall void(pointer, u32, usize, u32)"

local CreateWindow = user32:func("CreateWindowExA",
    "stdcall pointer(u32, pointer, pointer, u32, i32, i32, i32, i32, pointer, pointer, pointer, pointer)")
local DefWindowProc = user32:func("DefWindowProcA", WINDOW_PROCEDURE)
local DestroyWindow = user32:func("DestroyWindow", "stdcall i32(pointer)")
local DispatchMessage = user32:func("DispatchMessageA", "stdcall isize(pointer)")
local EnumWindows = user32:func("EnumWindows", "stdcall i32(fn stdcall i32(pointer, isize), isize)")
local GetMessage = user32:func("GetMessageA", "stdcall i32(pointer, pointer, u32, u32)")
local GetModuleHandle = kernel32:func("GetModuleHandleA", "stdcall pointer(pointer)")
local GetWindowText = user32:func("GetWindowTextA", "stdcall i32(pointer, pointer, i32)")
local KillTimer = user32:func("KillTimer", "stdcall i32(pointer, usize)")
local PostMessage = user32:func("PostMessageA", "stdcall i32(pointer, u32, usize, isize)")
local PostQuitMessage = user32:func("PostQuitMessage", "stdcall void(i32)")
local RegisterClass = user32:func("RegisterClassA", "stdcall u16(pointer)")
local SendMessage = user32:func("SendMessageA", WINDOW_PROCEDURE)
local SetTimer = user32:func("SetTimer", "stdcall usize(pointer, usize, u32, fn " .. TIMER_PROCEDURE .. ")")
local UnregisterClass = user32:func("UnregisterClassA", "stdcall i32(pointer, pointer)")
local qsort = msvcrt:func("qsort", "cdecl void(pointer, usize, usize, fn cdecl i32(pointer, pointer))")

local WM_CREATE, WM_DESTROY, WM_USER = 0x0001, 0x0002, 0x0400
local at_first = ffi.live()

local function raises(what, f, ...)
    local ok, message = pcall(f, ...)
    assert(not ok and tostring(message):find(what, 1, true), message)
end

-- qsort calls a closure, which is a callback for as long as qsort runs.
local numbers, compared = { 31, -7, 1000000, 0, 5, -7 }, 0
local bytes = ffi.buffer(string.pack("i4i4i4i4i4i4", table.unpack(numbers)))
local function number(address) return (string.unpack("i4", ffi.bytes(address, 4))) end
qsort(bytes, #numbers, 4, function(a, b)
    compared = compared + 1
    return number(a) - number(b)
end)
table.sort(numbers)
local sorted = { string.unpack("i4i4i4i4i4i4", ffi.bytes(bytes, #bytes)) }
for index, expected in ipairs(numbers) do assert(sorted[index] == expected) end
print(("qsort: %d numbers, %d comparisons"):format(#numbers, compared))

-- It goes on after an error, with zeros: the closure does not run again.
compared = 0
raises("cannot compare", qsort, bytes, #numbers, 4, function()
    compared = compared + 1
    error("cannot compare")
end)
assert(compared == 1, compared)
assert(ffi.live() == at_first)

-- A window class whose procedure is a closure. Windows keeps the pointer, so the script keeps the callback.
local seen, depth, deepest = {}, 0, 0
local procedure = ffi.callback(WINDOW_PROCEDURE, function(window, message, wparam, lparam)
    seen[message] = (seen[message] or 0) + 1
    if message == WM_USER then return wparam * 2 + lparam end
    if message == WM_USER + 1 then error("message of " .. wparam) end
    if message == WM_USER + 2 then
        depth = depth + 1
        deepest = math.max(deepest, depth)
        local below = wparam == 0 and 0 or SendMessage(window, message, wparam - 1, 0) + 1
        depth = depth - 1
        return below
    end
    if message == WM_USER + 3 then return SendMessage(window, WM_USER + 1, wparam, 0) end
    if message == WM_DESTROY then
        PostQuitMessage(3)
        return 0
    end
    return DefWindowProc(window, message, wparam, lparam)
end)
-- WNDCLASSA: style, lpfnWndProc, cbClsExtra, cbWndExtra, hInstance, hIcon, hCursor, hbrBackground, lpszMenuName,
-- lpszClassName.
local class, module = ffi.buffer("calltable Lua\0"), GetModuleHandle(nil)
local description = string.pack("!I4Ti4i4TTTTTT",
    0, procedure:address(), 0, 0, module, 0, 0, 0, 0, class:address())
assert(RegisterClass(description) ~= 0)
local title = "A Lua closure's window"
local window = CreateWindow(0, class, title, 0x10cf0000, 50, 50, 400, 200, nil, nil, module, nil)
assert(window ~= 0 and seen[WM_CREATE] == 1)
assert(SendMessage(window, WM_USER, 21, -2) == 40)
assert(SendMessage(window, WM_USER + 2, 5, 0) == 5 and deepest == 6)

-- Errors pass the window procedure, also through two foreign calls, and also from the message loop.
raises("message of 7", SendMessage, window, WM_USER + 1, 7, 0)
raises("message of 8", SendMessage, window, WM_USER + 3, 8, 0)

-- EnumWindows finds it.
local found, count = nil, 0
assert(EnumWindows(function(handle)
    count = count + 1
    local text = ffi.buffer(256)
    if GetWindowText(handle, text, #text) > 0 and ffi.text(text) == title then found = handle end
    return 1
end, 0) ~= 0)
assert(found == window, "the window was not listed")
print(("EnumWindows: %d windows"):format(count))
count = 0
raises("enough", EnumWindows, function()
    count = count + 1
    error("enough")
end, 0)
assert(count == 1)

-- Two timers; one of them ends itself and lets go of its own callback while it runs.
local ticks, once = 0, 0
local ticking = ffi.callback(TIMER_PROCEDURE, function(handle, message, id)
    assert(handle == window and message == 0x0113 and id == 1)
    ticks = ticks + 1
    if ticks == 5 then PostMessage(window, WM_USER + 1, 99, 0) end
end)
local single
single = ffi.callback(TIMER_PROCEDURE, function(handle, _, id)
    KillTimer(handle, id)
    single:release()
    single = nil
    collectgarbage()
    collectgarbage()
    once = once + 1
end)
assert(SetTimer(window, 1, 10, ticking) ~= 0 and SetTimer(window, 2, 10, single) ~= 0)

local message, failures = ffi.buffer(48), 0
while true do
    local more = GetMessage(message, nil, 0, 0)
    if more == 0 then break end
    assert(more > 0)
    local ok, error = pcall(DispatchMessage, message)
    if not ok then
        assert(tostring(error):find("message of 99", 1, true), error)
        failures = failures + 1
        DestroyWindow(window)
    end
end
-- MSG: hwnd, message, wParam; the last one is WM_QUIT.
local _, last, code = string.unpack("!TI4T", ffi.bytes(message, #message))
assert(last == 0x0012 and code == 3)
assert(failures == 1 and ticks >= 5 and once == 1 and seen[WM_DESTROY] == 1)
print(("timers: %d ticks and %d"):format(ticks, once))

assert(UnregisterClass(class, module) ~= 0)
procedure:release()
ticking:release()
assert(ffi.live() == at_first, ffi.live())
print("windows: all as expected")
