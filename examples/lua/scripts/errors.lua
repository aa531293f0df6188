-- Errors in callbacks. Runs everywhere: the foreign code is the table's own entries.

-- A callback, and a function that calls it as foreign code would.
local function pair(type, f)
    local callback = ffi.callback(type, f)
    return ffi.func(callback, type), callback
end

-- An error passes the foreign frames, as the value that it is, and the script can catch it.
local raise, keep1 = pair("i32(i32)", function(n)
    if n < 0 then error("negative: " .. n) end
    if n == 0 then error({ code = 42 }) end
    return n + 1
end)
assert(raise(7) == 8)
local ok, message = pcall(raise, -3)
assert(not ok and message:find("errors.lua:%d+: negative: %-3"), message)
assert(message:find("stack traceback", 1, true), message)
local ok, value = pcall(raise, 0)
assert(not ok and value.code == 42)
assert(raise(7) == 8)

local function raises(what, f, ...)
    local ok, message = pcall(f, ...)
    assert(not ok and tostring(message):find(what, 1, true), message)
end

-- Through several foreign calls: each passes it on, unless the script catches it between them.
local deep, keep2
deep, keep2 = pair("i32(i32)", function(n)
    if n == 0 then error("at the bottom") end
    return deep(n - 1) + 1
end)
raises("at the bottom", deep, 20)
local caught, keep3
caught, keep3 = pair("i32(i32)", function(n)
    if n == 0 then error("at the bottom") end
    local ok, below = pcall(caught, n - 1)
    return ok and below + 1 or 100
end)
assert(caught(5) == 104)

-- In a coroutine, which cannot be left from within a callback.
local yielding, keep4 = pair("void()", function() coroutine.yield() end)
raises("attempt to yield", coroutine.wrap(function() yielding() end))
raises("negative: -1", coroutine.wrap(function() raise(-1) end))

-- Results and arguments of other types than declared.
local nothing, keep5 = pair("i32()", function() end)
raises("its result: nil is no i32", nothing)
local wide, keep6 = pair("u8()", function() return 256 end)
raises("256 does not fit in u8", wide)
raises('argument 1 of "i32(i32)": string is no i32', raise, "x")
raises('"i32(i32)" takes 1 arguments, not 2', raise, 1, 2)
raises("no type", ffi.callback, "i33()", print)
local takes, keep7 = pair("void(fn i32(i32))", function() end)
raises('"i32(i32)" is wanted, not "u8()"', takes, keep6)
raises("there is no function at address 0", ffi.func, nil, "void()")

-- What has been released has no address any more.
keep7:release()
raises("the callback has been released", keep7.address, keep7)

print("errors: all as expected")
