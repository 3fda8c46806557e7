"""List archives, and read one member at a time. Nothing is ever unpacked to disk."""

import gzip
import tarfile
import zipfile
from collections.abc import Iterator
from io import BytesIO

from kinds import Refused

MEMBER_BYTES = 32_000_000
"""Bytes of the largest member that is read."""
MAX_MEMBERS = 10_000


def read(data: bytes, name: str, part: str, kind: str) -> Iterator[str] | tuple[str, bytes]:
    """Return the list of an archive, or the name and bytes of the member that `part` names."""
    if kind == "zip":
        return _zip_member(data, part) if part else _zip_list(data)
    if kind == "gzip" and not _is_tar(data):
        with gzip.open(BytesIO(data)) as stream:
            return name.removesuffix(".gz"), _bounded(stream.read(MEMBER_BYTES + 1))
    return _tar_member(data, part) if part else _tar_list(data)


def _zip_list(data: bytes) -> Iterator[str]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    yield f'[zip archive of {len(members):,} members, {size:,} bytes unpacked; part="name" shows one]\n'
    for member in members[:MAX_MEMBERS]:
        yield f"{member.filename}{'' if member.is_dir() else f'  {member.file_size:,} bytes'}\n"
    if len(members) > MAX_MEMBERS:
        yield f"[{len(members) - MAX_MEMBERS:,} more are left out]\n"


def _zip_member(data: bytes, part: str) -> tuple[str, bytes]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        try:
            member = archive.getinfo(part)
        except KeyError:
            raise Refused(f"there is no member {part!r} in it") from None
        if member.flag_bits & 1:
            raise Refused(f"the member {part!r} has a password")
        with archive.open(member) as stream:
            return part, _bounded(stream.read(MEMBER_BYTES + 1))


def _tar_list(data: bytes) -> Iterator[str]:
    yield '[tar archive; part="name" shows a member]\n'
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        for number, member in enumerate(archive):
            if number >= MAX_MEMBERS:
                yield "[more are left out]\n"
                return
            kind = "/" if member.isdir() else f"  {member.size:,} bytes" if member.isfile() else "  (no regular file)"
            yield f"{member.name}{kind}\n"


def _tar_member(data: bytes, part: str) -> tuple[str, bytes]:
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        for number, member in enumerate(archive):
            if number >= MAX_MEMBERS:
                break
            if member.name != part:
                continue
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None:
                raise Refused(f"the member {part!r} is no regular file")
            return part, _bounded(stream.read(MEMBER_BYTES + 1))
    raise Refused(f"there is no member {part!r} in it")


def _is_tar(data: bytes) -> bool:
    with gzip.open(BytesIO(data)) as stream:
        return stream.read(262)[257:] == b"ustar"


def _bounded(data: bytes) -> bytes:
    if len(data) > MEMBER_BYTES:
        raise Refused(f"what is packed in it is larger than {MEMBER_BYTES:,} bytes")
    return data
