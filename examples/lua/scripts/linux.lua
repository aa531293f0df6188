-- A real Windows DLL, zlib, on Linux without Wine: its allocator, and the input and output of its decompressor, are Lua
-- functions. The argument is the path of a 64-bit zlib1.dll (in Debian's package libz-mingw-w64, for one).

local zlib = ffi.load(arg[1] or "/usr/x86_64-w64-mingw32/lib/zlib1.dll")
local at_first = ffi.live() -- the DLL's imports

local version = zlib:func("zlibVersion", "pointer()")()
print("zlib " .. ffi.text(version) .. ", " .. at_first .. " imports")
assert(zlib:func("crc32", "u32(u32, pointer, u32)")(0, "123456789", 9) == 0xcbf43926)

local deflateInit = zlib:func("deflateInit2_", "i32(pointer, i32, i32, i32, i32, i32, pointer, i32)")
local deflate = zlib:func("deflate", "i32(pointer, i32)")
local deflateEnd = zlib:func("deflateEnd", "i32(pointer)")
local inflateBackInit = zlib:func("inflateBackInit_", "i32(pointer, i32, pointer, pointer, i32)")
local inflateBack = zlib:func("inflateBack",
    "i32(pointer, fn u32(pointer, pointer), pointer, fn i32(pointer, pointer, u32), pointer)")
local inflateBackEnd = zlib:func("inflateBackEnd", "i32(pointer)")
local Z_FINISH, Z_OK, Z_STREAM_END, Z_DEFLATED = 4, 0, 1, 8

-- zlib's memory is Lua's: a block lives as long as this table knows it.
local blocks, allocated, freed, fail_at = {}, 0, 0, nil
local allocate = ffi.callback("pointer(pointer, u32, u32)", function(_, items, size)
    allocated = allocated + 1
    if allocated == fail_at then error("no memory today") end
    local block = ffi.buffer(items * size)
    blocks[block:address()] = block
    return block
end)
local free = ffi.callback("void(pointer, pointer)", function(_, address)
    assert(blocks[address], "a block that was never allocated")
    freed = freed + 1
    blocks[address] = nil
end)

-- z_stream: next_in, avail_in, total_in, next_out, avail_out, total_out, msg, state, zalloc, zfree, opaque, data_type,
-- adler, reserved.
local STREAM = "!TI4I4TI4I4TTTTTI4I4I4I4"
local SIZE = string.packsize(STREAM)
local function stream(input, output)
    return ffi.buffer(STREAM:pack(input and input:address() or 0, input and #input or 0, 0,
        output and output:address() or 0, output and #output or 0, 0,
        0, 0, allocate:address(), free:address(), 0, 0, 0, 0, 0))
end

-- Compresses, raw: inflateBack takes no header.
local text = {}
for n = 1, 20000 do text[n] = "line " .. n * n .. "\n" end
text = table.concat(text)
local input, output = ffi.buffer(text), ffi.buffer(#text + 1000)
local z = stream(input, output)
assert(deflateInit(z, 6, Z_DEFLATED, -15, 8, 0, version, SIZE) == Z_OK)
assert(deflate(z, Z_FINISH) == Z_STREAM_END)
local length = select(6, STREAM:unpack(ffi.bytes(z, SIZE)))
assert(deflateEnd(z) == Z_OK)
local compressed = ffi.bytes(output, length)
print(("%d bytes compressed to %d, %d blocks allocated"):format(#text, #compressed, allocated))
assert(#compressed < #text / 2 and allocated > 3 and allocated == freed)

-- Decompresses: zlib asks one Lua function for input, 1000 bytes each time, and gives its output to another.
local function decompress(supply, accept)
    local window = ffi.buffer(1 << 15)
    local z <close> = setmetatable({ stream = stream() }, { __close = function(z) inflateBackEnd(z.stream) end })
    assert(inflateBackInit(z.stream, 15, window, version, SIZE) == Z_OK)
    local chunk, position = nil, 1
    return inflateBack(z.stream, function(_, place)
        if supply then supply(position) end
        chunk = ffi.buffer(compressed:sub(position, position + 999))
        position = position + #chunk
        ffi.copy(place, string.pack("T", chunk:address()))
        return #chunk
    end, nil, function(_, address, length)
        accept(ffi.bytes(address, length))
        return 0
    end, nil)
end
local pieces, asked = {}, 0
local result = decompress(function() asked = asked + 1 end, function(bytes) pieces[#pieces + 1] = bytes end)
print(("%d pieces of input, %d of output, at most %d slots"):format(asked, #pieces, ffi.live() + 2))
assert(result == Z_STREAM_END and asked == math.ceil(#compressed / 1000))
assert(table.concat(pieces) == text)

-- Errors of either, and of the allocator: they end the foreign call, and nothing runs after them.
asked = 0
local ok, message = pcall(decompress, function(position)
    asked = asked + 1
    if position > 3000 then error("no more input") end
end, function() end)
assert(not ok and message:find("no more input", 1, true) and asked == 4, message)
ok, message = pcall(decompress, nil, function() error("disk full") end)
assert(not ok and message:find("disk full", 1, true), message)
blocks, allocated, freed, fail_at = {}, 0, 0, 2
ok, message = pcall(deflateInit, stream(), 6, Z_DEFLATED, -15, 8, 0, version, SIZE)
assert(not ok and message:find("no memory today", 1, true), message)
assert(allocated == 2 and freed == 0, "a callback ran after one that had failed")

assert(ffi.live() == at_first + 2, ffi.live())
allocate:release()
free:release()
assert(ffi.live() == at_first)
print("linux: the same bytes came back")
