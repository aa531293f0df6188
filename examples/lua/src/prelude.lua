-- What is said best in Lua: an error passes foreign frames as a value, whatever it is.

-- Calls a script's function. Returns true and its result, or false and the error; a message gets a traceback.
local function guard(f, ...)
    return xpcall(f, function(e) return type(e) == "string" and debug.traceback(e, 2) or e end, ...)
end

local function finish(ok, ...)
    if not ok then error(..., 0) end
    return ...
end

-- From a function that returns such values to one that raises such errors.
local function raising(call)
    return function(...) return finish(call(...)) end
end

return guard, raising
