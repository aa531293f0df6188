-- 100,000 callbacks, each called once: slots come back when Lua has collected a callback, when it leaves its scope, or
-- when the foreign call for which it was made has returned. Runs everywhere.

local COUNT = 100000
local before = ffi.live()

-- Counts the calls, and the most slots that were in use.
local calls, most = 0, 0
local function count(n)
    calls = calls + 1
    most = math.max(most, ffi.live())
    return n + 1
end

local function report(how)
    assert(calls == COUNT, calls)
    assert(most <= ffi.capacity)
    print(("%s: %d callbacks, at most %d of %d slots"):format(how, calls, most, ffi.capacity))
    calls, most = 0, 0
end

-- Left to the collector. Each refers to itself through its closure.
local function leave_to_collector()
    for n = 1, COUNT do
        local callback
        callback = ffi.callback("i32(i32)", function(n)
            assert(callback:address())
            return count(n)
        end)
        assert(ffi.func(callback, "i32(i32)")(n) == n + 1)
    end
end
leave_to_collector()
assert(most < ffi.capacity)
report("collected")
-- If the collector never runs by itself, it does when the table is full.
collectgarbage("stop")
leave_to_collector()
assert(most == ffi.capacity)
report("collected when there was no slot left")
collectgarbage("restart")
collectgarbage()
collectgarbage()
assert(ffi.live() == before, ffi.live())

-- Given back at the end of a scope.
for n = 1, COUNT do
    local callback <close> = ffi.callback("i32(i32)", count)
    assert(ffi.func(callback, "i32(i32)")(n) == n + 1)
end
assert(most == before + 1, most)
report("closed")
assert(ffi.live() == before)

-- Made for one foreign call. The foreign code calls what it is given: it stands for EnumWindows and its like.
local enumerate = ffi.callback("i32(fn i32(i32), i32)", function(code, n) return ffi.func(code, "i32(i32)")(n) end)
local call = ffi.func(enumerate, "i32(fn i32(i32), i32)")
for n = 1, COUNT do
    assert(call(count, n) == n + 1)
end
assert(most == before + 2, most)
report("passed as an argument")
enumerate:release()
assert(ffi.live() == before)

-- One that lets go of itself while it runs keeps its slot until it has returned.
do
    local callback
    callback = ffi.callback("i32(i32)", function(n)
        callback:release()
        callback = nil
        collectgarbage()
        assert(ffi.live() == before + 1)
        return n * 2
    end)
    local call = ffi.func(callback, "i32(i32)")
    assert(call(21) == 42)
    assert(ffi.live() == before)
end

-- Callbacks that are kept fill the table, and then that is said.
local kept = {}
local ok, message = pcall(function()
    while true do kept[#kept + 1] = ffi.callback("i32(i32)", count) end
end)
assert(not ok and tostring(message):find("is free", 1, true), message)
assert(#kept == ffi.capacity - before, #kept)
kept = nil
local callback = ffi.callback("i32(i32)", count)
assert(ffi.func(callback, "i32(i32)")(1) == 2)

print("short_lived: all slots came back")
