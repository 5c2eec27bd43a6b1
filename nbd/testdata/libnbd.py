# Exercises an export of 16 MiB (minimum block 512, maximum payload 4 MiB) through libnbd.
import errno
import os
import sys

import nbd

SIZE, BLOCK = 16 << 20, 4096

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.set_strict_mode(0)  # send what the library itself would refuse
h.connect_uri(sys.argv[1])

assert h.get_structured_replies_negotiated()
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
assert h.get_size() == SIZE
assert h.get_block_size(nbd.SIZE_MINIMUM) == 512
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 4 << 20
for can in (h.can_fua, h.can_flush, h.can_trim, h.can_zero, h.can_fast_zero, h.can_df, h.can_multi_conn):
    assert can(), can


def fails(code, f, *args, **kw):
    try:
        f(*args, **kw)
    except nbd.Error as e:
        assert e.errnum == code, (e.errnum, code, str(e))
    else:
        raise AssertionError("%s%r succeeded" % (f.__name__, args))


def extents(off, length, flags=0):
    got = []

    def collect(context, start, entries, err):
        assert context == nbd.CONTEXT_BASE_ALLOCATION and start == off
        got.extend(entries)

    h.block_status(length, off, collect, flags)
    return list(zip(got[::2], got[1::2]))


HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO

# Contents, FUA, block status.
data = os.urandom(256 * 1024)
h.pwrite(data, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(len(data), 1 << 20) == data
assert extents(0, SIZE) == [(1 << 20, HOLE), (256 * 1024, 0), (SIZE - (1 << 20) - 256 * 1024, HOLE)]
assert extents(0, SIZE, nbd.CMD_FLAG_REQ_ONE) == [(1 << 20, HOLE)]
assert extents((1 << 20) + BLOCK, BLOCK) == [(BLOCK, 0)]

# Structured reads: data and holes, in one chunk each.
chunks = []
h.pread_structured(BLOCK, 1 << 20, lambda buf, off, s, err: chunks.append((off, len(buf), s)), nbd.CMD_FLAG_DF)
h.pread_structured(BLOCK, 0, lambda buf, off, s, err: chunks.append((off, len(buf), s)))
assert chunks == [(1 << 20, BLOCK, nbd.READ_DATA), (0, BLOCK, nbd.READ_HOLE)], chunks

# Trim and zero.
h.trim(64 * 1024, 1 << 20)
h.zero(64 * 1024, (1 << 20) + 64 * 1024, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(64 * 1024, (1 << 20) + 128 * 1024, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(192 * 1024, 1 << 20) == bytearray(192 * 1024)
assert h.pread(64 * 1024, (1 << 20) + 192 * 1024) == data[192 * 1024:]
assert extents(1 << 20, 256 * 1024) == [(65536, HOLE), (65536, 0), (65536, HOLE), (65536, 0)]
h.flush()

# Refusals. The connection stays in step after each.
fails(errno.EINVAL, h.pread, 512, 100)
fails(errno.EINVAL, h.pwrite, bytes(100), 0)
fails(errno.EINVAL, h.pread, 512, SIZE)
fails(errno.EINVAL, h.pread, 1024, SIZE - 512)
fails(errno.ENOSPC, h.pwrite, bytes(512), SIZE)
fails(errno.ENOSPC, h.zero, 512, SIZE)
fails(errno.EINVAL, h.trim, 512, SIZE)
fails(errno.EINVAL, h.pwrite, bytes((4 << 20) + 512), 0)
fails(errno.EINVAL, h.pread, (4 << 20) + 512, 0)
fails(errno.EINVAL, h.cache, 512, 0)
assert h.pread(64 * 1024, (1 << 20) + 192 * 1024) == data[192 * 1024:]

# Many requests in flight.
want = [os.urandom(BLOCK) for _ in range(2000)]
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b)), i * BLOCK) for i, b in enumerate(want)]
while h.aio_in_flight():
    h.poll(-1)
assert all(h.aio_command_completed(c) for c in cookies)
buffers = [nbd.Buffer(BLOCK) for _ in want]
cookies = [h.aio_pread(b, i * BLOCK) for i, b in enumerate(buffers)]
while h.aio_in_flight():
    h.poll(-1)
assert all(h.aio_command_completed(c) for c in cookies)
assert all(b.to_bytearray() == w for b, w in zip(buffers, want))
h.shutdown()
