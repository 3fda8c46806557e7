"""Data sets of the Hugging Face Hub, found and fetched by `datasets`, and read here within bounds.

    hf:openai/gsm8k/main             configuration `main`; tasks.train reads its split train, tasks.eval validation, else test
    hf:openai/gsm8k/main:test        another split
    hf:openai/gsm8k/main@1f0c…       a commit; without one, the newest, whose commit is the tasks' revision

`datasets` keeps the files in its cache ($HF_HOME), resumes an interrupted download, and sends the user's key to gated sets.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lzero.config import HUB, ROW_FILES
from lzero.data.locating import Located, choose_split, stem, usual
from lzero.errors import ConfigError, DataError
from lzero.extras import need

MAX_BYTES = 16 << 30
"""Maximum bytes of the files of one split, as they lie on the Hub."""
MAX_FILES = 10_000
_PART = r"[A-Za-z0-9_][\w.-]{0,99}"
_SPEC = re.compile(
    rf"hf:(?P<home>{_PART}/{_PART})(?:/(?P<config>{_PART}))?(?::(?P<split>{_PART}))?(?:@(?P<revision>[\w./-]{{1,99}}))?"
)
_URL = re.compile(r"hf://datasets/(?P<home>[^@]+)@(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The files of a data set at one commit: `files` has each split's addresses."""

    home: str
    revision: str
    files: Mapping[str, Sequence[str]]

    @property
    def shown(self) -> str:
        return f"{HUB}{self.home}@{self.revision[:12]}"


def locate_on_hub(spec: str, *, wanted: str, key: str) -> Located:
    """Fetch the files that "hf:…" names. Raises ConfigError for another form, and DataError."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise ConfigError(
            f'{key} = "{spec}": write hf:OWNER/NAME, hf:OWNER/NAME/CONFIGURATION, then :SPLIT, then @COMMIT'
        )
    need("data", what=f'{key} = "{spec}"')
    resolved = resolve(found["home"], config=found["config"] or "", revision=found["revision"] or "")
    by_split = {usual(split): files for split, files in resolved.files.items()}
    split = choose_split(by_split, found["split"] or wanted, where=f"{key}: {spec}") if found["split"] or wanted else ""
    urls = by_split[split] if split in by_split else [url for files in by_split.values() for url in files]
    files = fetch(resolved, urls)
    directory = files[0][0].parent
    return Located(
        shown=resolved.shown,
        files=tuple((file, stem(Path(path))) for file, path in files),
        directory=directory,
        split=split,
        source=resolved.home,
        revision=resolved.revision,
    )


def resolve(
    home: str, *, config: str = "", revision: str = "", patterns: Mapping[str, Sequence[str]] | None = None
) -> Resolved:
    """Return the files of a data set's splits. `patterns`: split → names of its files; None: as the set's card says.

    Raises DataError if the set does not exist, is gated, has no such files, or cannot be reached.
    """
    import datasets

    data_files = {split: list(names) for split, names in patterns.items()} if patterns else None
    try:
        builder = datasets.load_dataset_builder(home, config or None, revision=revision or None, data_files=data_files)
        files = {str(split): list(map(str, urls)) for split, urls in (builder.config.data_files or {}).items()}
    except Exception as error:  # whatever the library and its transport raise
        raise DataError(f"{HUB}{home}: {_why(home, error)}") from error
    return Resolved(
        home=home, revision=revision_of(home, [url for urls in files.values() for url in urls]), files=files
    )


def revision_of(home: str, urls: Sequence[str]) -> str:
    """Return the commit of a data set's files. Raises DataError for none or too many, and for one elsewhere, which a card may name."""
    if not 1 <= len(urls) <= MAX_FILES:
        raise DataError(f"{HUB}{home}: {len(urls):,} files with rows; there must be 1 to {MAX_FILES:,}")
    first = _URL.fullmatch(urls[0])
    for url in urls:
        found = _URL.fullmatch(url)
        if first is None or found is None or found.group("home", "revision") != first.group("home", "revision"):
            raise DataError(f"{HUB}{home} names {url:.200} among its files, which lies elsewhere: fetch it yourself")
    assert first is not None
    return first["revision"]


def fetch(resolved: Resolved, urls: Sequence[str]) -> list[tuple[Path, str]]:
    """Return each file of rows, fetched, and its path in the data set. Raises DataError; also for files of more than MAX_BYTES."""
    paths = [found["path"] for url in urls if (found := _URL.fullmatch(url))]
    other = next((path for path in paths if not path.endswith(ROW_FILES)), None)
    if other is not None:
        raise DataError(
            f"{resolved.shown} holds {other}, and rows are read from files that end in {', '.join(ROW_FILES)}"
        )
    return list(zip(_fetched(resolved, urls), paths, strict=True))


def fetch_beside(resolved: Resolved, directory: Path, names: Sequence[str]) -> list[Path]:
    """Return files of a directory of the data set, which are not rows, fetched. Raises as `fetch` does."""
    within = f"hf://datasets/{resolved.home}@{resolved.revision}/{directory.as_posix()}"
    return _fetched(resolved, [f"{within}/{name}" for name in names]) if names else []


def _fetched(resolved: Resolved, urls: Sequence[str]) -> list[Path]:
    import datasets
    from datasets.utils.file_utils import xgetsize

    try:
        total = sum(xgetsize(url) for url in urls)
        if total > MAX_BYTES:
            raise DataError(
                f"{resolved.shown}: its files have {total:,} bytes, more than {MAX_BYTES:,}: name a smaller part"
            )
        files = datasets.DownloadManager().download(list(urls))
    except DataError:
        raise
    except Exception as error:  # whatever the library and its transport raise
        raise DataError(f"{resolved.shown}: {_why(resolved.home, error)}") from error
    return list(map(Path, files))


def _why(home: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    page = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/datasets/{home}"
    kind = type(error).__name__
    if "gated" in said.lower() or "restricted" in said.lower():
        return (
            f"it is gated. Ask for access at {page}, then log in with `hf auth login` (or set HF_TOKEN), and try again"
        )
    if kind == "DatasetNotFoundError":
        return f"no such data set ({said}). It may have moved: look for it at {page}"
    if isinstance(error, FileNotFoundError) and kind != "LocalEntryNotFoundError":
        return f"its files are not where they were ({said}). See {page}/tree/main"
    if "script" in said:
        return f"it is a program, and none is run. Its rows may be at {HUB}{home}@refs/convert/parquet"
    if isinstance(error, OSError):
        return f"the Hub cannot be reached, or broke off ({kind}: {said}). Try again: what is there already is kept"
    return f"{kind}: {said}"
