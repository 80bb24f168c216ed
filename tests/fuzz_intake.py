"""Mutated zips and tars through the whole intake for a while: an answer each time, in time, and never an exception.

`make fuzz` runs it for some minutes; a few hundred mutants run in tests/autograder/test_archives.py. A mutant that breaks
the intake is left in a file, which is named.
"""

import argparse
import io
import random
import resource
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "autograder"))
from packing import encrypted, tarred, zipped  # noqa: E402

from autograder.submission import Submission, take_in  # noqa: E402

MODULES = ("attention", "flash_attention")
SLOWEST_S = 150.0  # the reader's own limit on wall time, and some
MOST_MB = 400  # the grader's memory above what it had
CODE = b"import torch\n\n\ndef causal_mask(length):\n    return torch.ones(length, length).tril()\n" * 8


def seeds() -> list[bytes]:
    """Valid archives of every kind, to be mutated."""
    files = {
        "hw/attention.py": CODE,
        "hw/flash_attention.py": CODE[::-1],
        "hw/notes.txt": b"x" * 99,
        "hw/sub/x.py": b"",
    }
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    zips = [zipped(files, method) for method in methods]
    tars = [tarred(files, mode) for mode in ("w:", "w:gz", "w:bz2", "w:xz")]
    long_names = {f"{'d' * 90}/{'é' * 60}{i}/attention.py": CODE for i in range(3)}
    tars += [
        tarred(long_names, "w:", form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)[:2]
    ]
    return [*zips, *tars, encrypted(zips[1]), zipped({"inner.zip": zips[1], "inner.tar.gz": tars[1]})]


def monsters() -> dict[str, bytes]:
    """Archives that were made to do harm."""
    name = tarfile.TarInfo("attention.py").tobuf
    longs = b"".join(_header(b"L", 512) + b"n" * 511 + b"\0" for _ in range(3000))
    odd = [
        "",
        "/",
        "..",
        "../attention.py",
        "a\0b.py",
        "\udcff.py",
        "CON.py",
        "a//b.py",
        "./attention.py",
        "x" * 5000 + ".py",
    ]
    announced = bytearray(zipped({"attention.py": CODE}))
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        place = announced.find(signature) + offset
        announced[place : place + 4] = struct.pack("<I", 0xFFFFFFF0)
    return {
        "long names.tar": longs + name() + bytes(1024),
        "long names.tar.gz": _gzipped(longs),
        "a pax header of 8 GB.tar": _header(b"x", 8 << 30) + b"30 mtime=1\n",
        "a name of 8 GB.tar": _header(b"L", 8 << 30) + b"n" * 512,
        "a name of 1 GB, which is there.tar.gz": _gzipped(_header(b"L", 1 << 30), zeros_mb=1024),
        "a file of 8 GB.tar": _header(b"0", 8 << 30, b"attention.py") + CODE,
        "negative.tar": _header(b"0", -1, b"attention.py") + CODE,
        "a bomb.zip": _bomb(300),
        "a bomb.tar.gz": _gzipped(_header(b"0", 300 << 20, b"data.bin"), 300, tarred({"attention.py": CODE}, "w:")),
        "announced gigabytes.zip": bytes(announced),
        "twice.zip": _twice(),
        "many.zip": zipped({f"{i}.txt": b"" for i in range(20_000)}),
        "odd names.tar": tarred([(tarfile.TarInfo(text), CODE) for text in odd], "w:", tarfile.GNU_FORMAT),
        "only headers.tar": name() * 2000,
        "zeros.tar": bytes(1 << 20),
        "nested.zip": _nested(30),
        "all archives.zip": zipped({f"{i}.zip": zipped({"attention.py": CODE}) for i in range(200)}),
        "deep.tar": tarred({"d/" * 400 + "attention.py": CODE}, "w:", tarfile.GNU_FORMAT),
    }


def _header(kind, size, name=b"././@LongLink"):
    entry = tarfile.TarInfo(name.decode())
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def _gzipped(start, zeros_mb=0, end=b""):
    """Compressed piece by piece: the fuzzer measures its own memory."""
    packer = zlib.compressobj(1, wbits=31)
    pieces = [packer.compress(start)]
    pieces += [packer.compress(bytes(1 << 20)) for _ in range(zeros_mb)]
    return b"".join([*pieces, packer.compress(end), packer.flush()])


def _bomb(zeros_mb):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("attention.py", "w") as file:
        for _ in range(zeros_mb):
            file.write(bytes(1 << 20))
    return stream.getvalue()


def _twice():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zipped([("attention.py", b"old = 1"), ("attention.py", CODE)])


def _nested(depth):
    content = zipped({"attention.py": CODE})
    for level in range(depth):
        content = zipped({f"{level}.zip": content})
    return content


def mutated(archive: bytes, dice: random.Random) -> bytes:
    """An archive with a few things changed."""
    data = bytearray(archive)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 8))):
        place, length = dice.randrange(len(data) or 1), dice.choice((1, 2, 4, 8, 100, 512))
        change = dice.randrange(7)
        if change <= 1:
            data[place : place + 1] = bytes([dice.randrange(256)])
        elif change == 2:  # a number of an extreme size
            data[place : place + 4] = struct.pack("<I", dice.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE)))
        elif change == 3:
            del data[place : place + length]
        elif change == 4:  # a header, or what may be one, elsewhere
            start = dice.randrange(len(data) or 1)
            data[place:place] = data[start : start + length]
        elif change == 5:
            signature = dice.choice((b"PK\1\2", b"PK\3\4", b"PK\5\6", b"ustar", b"\x1f\x8b\x08", b"././@LongLink\0"))
            data[place : place + len(signature)] = signature
        elif dice.random() < 0.4:
            del data[place:]
    return bytes(data)


def mutants(dice: random.Random) -> Iterator[bytes]:
    known = seeds()
    while True:
        yield mutated(dice.choice(known), dice)


def check(archive: bytes, path: Path) -> Submission:
    """The intake's answer to an archive, written to `path`; asserts that it is one."""
    path.write_bytes(archive)
    started = time.monotonic()
    submission = take_in(path, MODULES)
    assert time.monotonic() - started < SLOWEST_S, "it took too long"
    assert set(submission.missing) | {name.removesuffix(".py") for name in submission.files} >= set(MODULES) or (
        submission.problem
    ), "a module is neither there nor missed"
    assert sum(map(len, submission.files.values())) <= 8 << 20
    for name in submission.files:
        assert name.isprintable(), name
        assert not {"", ".", ".."} & set(name.split("/")), name
    for text in (submission.problem, *submission.missing.values(), *submission.notes):
        assert text.isprintable(), text
        assert str(path.parent) not in text
        assert len(text) < 1000, text
    return submission


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=300)
    options.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    options = options.parse_args()
    dice = random.Random(options.seed)
    end = time.monotonic() + options.seconds
    folder = Path(tempfile.mkdtemp(prefix="fuzz-intake-"))
    counts, queue = Counter(), [*monsters().values()]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream = mutants(dice)
    while time.monotonic() < end:
        path = folder / dice.choice(("work.zip", "work.tar", "work.tar.gz", "work.py"))
        try:
            submission = check(queue.pop() if queue else next(stream), path)
        except BaseException:
            print(f"seed {options.seed}: the archive is {path}", file=sys.stderr)
            raise
        path.unlink()
        counts["with files" if submission.files else "refused" if submission.problem else "without a module"] += 1
    folder.rmdir()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < MOST_MB, f"the grader grew by {grown} MB"
    print(f"seed {options.seed}: {sum(counts.values())} archives: {dict(counts)}; the grader grew by {grown} MB")


if __name__ == "__main__":
    main()
