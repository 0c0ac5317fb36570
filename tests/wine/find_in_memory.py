"""Look for text in the memory of another Windows process.

    python find_in_memory.py PID          # the text: one line of stdin, ASCII

Prints JSON: address -> how it is written, for each place where all of it stands.
It is another process, because whoever searches has what is searched for in its
own memory.
"""

import ctypes
import json
import sys
from ctypes import c_size_t, c_uint32, c_void_p

READ, QUERY = 0x10, 0x400  # winnt.h, PROCESS_VM_READ, PROCESS_QUERY_INFORMATION
COMMITTED = 0x1000  # MEM_COMMIT
READABLE = 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80  # PAGE_*; PAGE_GUARD is 0x100


class Region(ctypes.Structure):  # winnt.h, MEMORY_BASIC_INFORMATION
    _fields_ = [
        ("BaseAddress", c_void_p), ("AllocationBase", c_void_p),
        ("AllocationProtect", c_uint32), ("RegionSize", c_size_t),
        ("State", c_uint32), ("Protect", c_uint32), ("Type", c_uint32),
    ]


def find(pid, needles):
    """Return address -> name, for each of the needles (name -> bytes) found."""
    found = {}
    for start, content in regions(pid):
        for name, needle in needles.items():
            place = content.find(needle)
            while place >= 0:
                found[start + place] = name
                place = content.find(needle, place + 1)
    return found


def regions(pid):
    """Yield (address, bytes) of what a process can read of its own memory."""
    kernel32 = ctypes.WinDLL("kernel32.dll", winmode=0x800)
    kernel32.OpenProcess.restype = c_void_p
    kernel32.VirtualQueryEx.restype = c_size_t
    process = c_void_p(kernel32.OpenProcess(READ | QUERY, False, pid))
    if not process:
        raise OSError(f"OpenProcess({pid}) failed")
    address, region, size = 0, Region(), c_size_t(ctypes.sizeof(Region))
    while kernel32.VirtualQueryEx(
        process, c_void_p(address), ctypes.byref(region), size
    ):
        address = region.BaseAddress or 0
        readable = region.Protect & READABLE and not region.Protect & 0x100
        if region.State == COMMITTED and readable:
            content = (ctypes.c_char * region.RegionSize)()
            done = c_size_t()
            kernel32.ReadProcessMemory(
                process, c_void_p(address), content, c_size_t(len(content)),
                ctypes.byref(done),
            )
            yield address, bytes(content)[: done.value]
        address += region.RegionSize
    kernel32.CloseHandle(process)


if __name__ == "__main__":
    text = sys.stdin.buffer.readline().strip()
    wide = b"".join(bytes([unit, 0]) for unit in text)
    found = find(int(sys.argv[1]), {"UTF-16": wide, "8 bits": text})
    print(json.dumps({f"0x{place:X}": name for place, name in found.items()}))
