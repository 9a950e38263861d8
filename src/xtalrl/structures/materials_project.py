"""Magnetizations, elemental ground states and known formulas from the Materials Project, each kept in Parquet.

Answers in the cache (`<cache>/materials_project/`) are not asked for again, so that a machine without internet can use them. A
cached file never mixes two releases; its metadata name the release (`database_version`). Delete it to follow a new release.

The key is read from the environment variable MP_API_KEY alone, and no message, log or file repeats it. MP_API_ENDPOINT, a
variable of the client mp-api, names another server with the same interface.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import requests
import tenacity
from pymatgen.core.structure import Structure
from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from xtalrl import tables
from xtalrl.csv_files import csv_text, read_csv
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError, without_secrets
from xtalrl.fetch.downloads import ATTEMPTS, TIMEOUT_S, TRANSIENT_STATUS
from xtalrl.progress import Progress
from xtalrl.sharing import make_folder, share, write_shared
from xtalrl.structures.crystals import REQUIRED_COLUMNS
from xtalrl.structures.magnetizations import PER_CELL, PER_FORMULA_UNIT

logger = logging.getLogger(__name__)

KEY_VARIABLE = "MP_API_KEY"
ENDPOINT_VARIABLE = "MP_API_ENDPOINT"
ENDPOINT = "https://api.materialsproject.org/"
KEY_PAGE = "https://next-gen.materialsproject.org/api"

IDS_PER_REQUEST = 200
"""Number of identifiers per request; longer lists make URLs that the server refuses (414)."""
PAGE = 1000
"""Number of rows per answer; the server's maximum."""
FIRST_WAIT_S = 1.0
"""Seconds to wait after the first failure; doubled after each further one, with jitter."""
LONGEST_WAIT_S = 120.0
"""Longest wait in seconds, even if the server asks for more (Retry-After)."""

_MP_ID = re.compile(r"(?:mp|mvc)-\d+")
"""Form of an identifier. mp-api accepts any other text as well, and then asks for another crystal (`demo-si` becomes `demo-476`)."""

_T = TypeVar("_T")


def _schema(description: str, *fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, metadata={"description": text}) for name, kind, text in fields],
        metadata={"xtalrl_table": description, "source": "Materials Project, CC-BY-4.0"},
    )


MAGNETIZATIONS = _schema(
    "magnetizations",
    ("material_id", pa.string(), "As asked for"),
    (
        PER_CELL,
        pa.float64(),
        "Total magnetization of the Materials Project's cell, in µB; null where it knows no such crystal or no value",
    ),
    (PER_FORMULA_UNIT, pa.float64(), "Total magnetization per formula unit, in µB"),
)
ELEMENTAL_CRYSTALS = _schema(
    "elemental_crystals",
    ("element", pa.string(), "Chemical symbol"),
    ("material_id", pa.string(), "Identifier of its most stable crystal"),
    ("nsites", pa.int32(), "Atoms in the cell"),
    ("cif", pa.string(), "The cell"),
)
FORMULAS = _schema("formulas", ("formula", pa.string(), "Reduced formula"))


def fetch_magnetizations(csvs: Mapping[str, str | Path], magnetizations: str | Path, cache: str | Path) -> None:
    """Write the total magnetization of every nonmetal of the CSVs as Parquet (`MAGNETIZATIONS`).

    A crystal that the Materials Project does not know (merged or removed since MP-20 was made) gets a row of nulls.

    Args:
        csvs: CSV in MP-20's columns of each split.
        magnetizations: the Parquet file to write; `xtalrl.structures.magnetizations` reads it.
        cache: folder of the cache.

    Raises:
        XtalrlError: a CSV cannot be read, or the API is needed and cannot be asked (see `_Client`).
    """
    rows_of_all = (row for path in csvs.values() for row in read_csv(path, REQUIRED_COLUMNS, "structures.path").rows)
    wanted = sorted({(row["material_id"] or "").strip() for row in rows_of_all if _is_nonmetal(row)})
    askable = [material_id for material_id in wanted if _MP_ID.fullmatch(material_id)]
    if foreign := len(wanted) - len(askable):
        logger.info("%s of %s crystals have no identifier of the Materials Project", f"{foreign:,}", f"{len(wanted):,}")
    cached = _Answers(cache, "magnetizations", MAGNETIZATIONS)
    known = {row["material_id"]: row for row in cached.rows()}
    if any(material_id not in known for material_id in askable):
        client = _Client("name a table with `material_id` and `total_magnetization` in `structures.magnetizations`")
        if client.database_version != cached.database_version():
            known = {}
        missing = [material_id for material_id in askable if material_id not in known]
        for rows in client.magnetizations(missing):
            known |= {row["material_id"]: row for row in rows}
            cached.write(known.values(), client.database_version)
    rows = [known[material_id] for material_id in askable]
    n_known = sum(row[PER_FORMULA_UNIT] is not None or row[PER_CELL] is not None for row in rows)
    version = cached.database_version()
    logger.info(
        "Magnetizations of %s of %s nonmetals, Materials Project %s",
        f"{n_known:,}",
        f"{len(wanted):,}",
        version or "not asked",
    )
    _write(rows, MAGNETIZATIONS, version, magnetizations)


def _is_nonmetal(row: Mapping[str, str | None]) -> bool:
    """Whether the gap is above 0; faults of a row are reported by the stage that reads the crystals."""
    try:
        return float(row["band_gap"] or 0) > 0
    except ValueError:
        return False


def fetch_elemental_crystals(crystals: str | Path, cache: str | Path) -> None:
    """Write the most stable crystal of each element as a CSV with `element` and `cif`, as `references.crystals` takes it.

    The most stable crystal has energy above hull 0 in the Materials Project; of several, the one with the fewest atoms is taken. An element
    without one is left out and named in the log; the references then use its textbook crystal.

    Raises:
        XtalrlError: the API is needed and cannot be asked (see `_Client`).
    """
    cached = _Answers(cache, "elements", ELEMENTAL_CRYSTALS)
    if not cached.path.exists():
        client = _Client(
            "name a CSV with `element` and `cif` in `references.crystals`, or leave it null for the textbook forms"
        )
        cached.write(client.elemental_crystals(), client.database_version)
    rows = cached.rows()
    version = cached.database_version()
    logger.info("Crystals of %d of %d elements, Materials Project %s", len(rows), len(ELEMENTS), version)
    if missing := sorted(set(ELEMENTS) - {row["element"] for row in rows}):
        logger.info("Without a crystal: %s", ", ".join(missing))
    if large := [f"{row['element']} ({row['nsites']})" for row in rows if row["nsites"] > 20]:
        logger.info(
            "More than 20 atoms, slow to compute (the paper took one atom in a box for P and Se): %s", ", ".join(large)
        )
    write_shared(Path(crystals), csv_text(ELEMENTAL_CRYSTALS.names, rows).encode())


def fetch_formulas(formulas: str | Path, cache: str | Path) -> None:
    """Write all reduced formulas of the Materials Project as text, one per line, as `evaluation.formulas` takes it.

    Deprecated entries and those of GNoME are left out: the latter are under another licence and shown to some accounts only,
    so that a list with them would depend on whose key was used.

    Raises:
        XtalrlError: the API is needed and cannot be asked (see `_Client`).
    """
    cached = _Answers(cache, "formulas", FORMULAS)
    if not cached.path.exists():
        client = _Client("name a text file of formulas, one per line, in `evaluation.formulas`, or leave it null")
        cached.write(({"formula": formula} for formula in client.formulas()), client.database_version)
    rows = cached.rows()
    logger.info("%s reduced formulas, Materials Project %s", f"{len(rows):,}", cached.database_version())
    write_shared(Path(formulas), "".join(f"{row['formula']}\n" for row in rows).encode())


class _Answers:
    """One Parquet file of answers, all of one release of the database."""

    def __init__(self, cache: str | Path, name: str, schema: pa.Schema) -> None:
        self.path = Path(cache) / "materials_project" / f"{name}.parquet"
        self.schema = schema

    def rows(self) -> list[dict[str, Any]]:
        """The kept rows; empty if there is no file yet."""
        if not self.path.exists():
            return []
        try:
            return tables.read_rows(self.path, self.schema)
        except XtalrlError:
            raise XtalrlError(
                f"{self.path} is not a readable table of answers of the Materials Project: delete it and run the same command again."
            ) from None

    def database_version(self) -> str | None:
        """The release that the file comes from."""
        if not self.path.exists():
            return None
        return tables.metadata_of(self.path).get("database_version", "unknown")

    def write(self, rows: Iterable[Mapping[str, Any]], database_version: str) -> None:
        """Replace the file."""
        make_folder(self.path.parent)
        _write(rows, self.schema, database_version, self.path)
        share(self.path)


def _write(
    rows: Iterable[Mapping[str, Any]], schema: pa.Schema, database_version: str | None, path: str | Path
) -> None:
    metadata = schema.metadata | {b"database_version": (database_version or "unknown").encode()}
    tables.write_rows(rows, schema.with_metadata(metadata), path)


class _NoAnswer(Exception):
    """A failure that may pass; its text says what happened."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class _KeyRefused(Exception):
    """The server answered 401 or 403."""


class _Client:
    """The Materials Project through mp-api: one request at a time, repeated with back-off while the failure may pass.

    mp-api repeats some requests by itself and others not (500, 503, an answer that is cut off), and reports all failures alike. So its session
    gets a hook that sees the true status, and only this class repeats requests.

    Raises:
        XtalrlError: there is no key, the key is refused, or all `ATTEMPTS` attempts got no connection or bad answers. The sentence ends with
            what to do without the API (`instead`).
    """

    def __init__(self, instead: str) -> None:
        self._instead = f"Without the API: {instead}."
        self._key = self._key_from_environment()
        self._endpoint = os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT
        if not self._endpoint.endswith("/"):
            self._endpoint += "/"
        self._session = requests.Session()
        self._session.hooks["response"].append(_check_status)
        # mp-api asks for the heartbeat too, but without a time limit: where packets are dropped it would hang.
        self.database_version = self._ask(self._heartbeat)
        self._summary = self._ask(self._connect)
        logger.info("%s: database version %s", without_secrets(self._endpoint), self.database_version)

    def magnetizations(self, material_ids: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Rows of `MAGNETIZATIONS` for each chunk of the identifiers, nulls for those that are not known."""
        from mp_api.client.core.utils import validate_ids

        progress = Progress("Asking for magnetizations", len(material_ids), "crystals")
        for start in range(0, len(material_ids), IDS_PER_REQUEST):
            chunk = material_ids[start : start + IDS_PER_REQUEST]
            documents = self._search(["material_id"], material_ids=list(chunk), fields=MAGNETIZATIONS.names)
            # The server may write mp-149 as mp-aaaaaaft.
            found = {validate_ids([document["material_id"]])[0]: document for document in documents}
            yield [
                {name: _finite(found.get(material_id, {}).get(name)) for name in MAGNETIZATIONS.names}
                | {"material_id": material_id}
                for material_id in chunk
            ]
            progress.advance(len(chunk))

    def elemental_crystals(self) -> list[dict[str, Any]]:
        """A row of `ELEMENTAL_CRYSTALS` for each of the 88 elements that has one, in alphabetical order."""
        rows: dict[str, dict[str, Any]] = {}
        documents = self._pages(
            "elemental crystals",
            ["material_id", "nsites", "structure"],
            criteria={"nelements_min": 1, "nelements_max": 1, "energy_above_hull_min": 0, "energy_above_hull_max": 0},
            num_elements=(1, 1),
            energy_above_hull=(0, 0),
        )
        for document in sorted(documents, key=lambda document: (document["nsites"], document["material_id"])):
            try:
                structure = Structure.from_dict(document["structure"])
                # Plain atoms: the Materials Project's sites may carry charges and moments.
                symbols = [site.specie.symbol for site in structure]
            except Exception as error:  # from_dict raises nearly everything on another layout.
                raise XtalrlError(
                    f"The structure of {document['material_id']} from the Materials Project is unreadable ({error!r}): "
                    f"a newer pymatgen may be needed. {self._instead}"
                ) from None
            cif = Structure(structure.lattice, symbols, structure.frac_coords).to(fmt="cif")
            row = {"element": symbols[0], "material_id": document["material_id"], "nsites": len(symbols), "cif": cif}
            rows.setdefault(symbols[0], row)
        return [rows[element] for element in sorted(set(rows) & set(ELEMENTS))]

    def formulas(self) -> list[str]:
        """All distinct reduced formulas, in alphabetical order."""
        documents = self._pages("formulas", ["formula_pretty"], criteria={}, needed=())
        formulas = [document.get("formula_pretty") for document in documents]
        if without := sum(not formula for formula in formulas):
            logger.info("%s of %s entries have no formula and are left out", f"{without:,}", f"{len(formulas):,}")
        return sorted({formula for formula in formulas if formula})

    def _pages(
        self,
        label: str,
        fields: Sequence[str],
        criteria: Mapping[str, Any],
        needed: Sequence[str] | None = None,
        **search: Any,
    ) -> list[dict[str, Any]]:
        """All documents of a search. One request per page, so that a failure repeats a page and not everything.

        mp-api's own paging ends silently when a page is too short; here the sum must be the server's count.

        Args:
            criteria: the search in the server's terms, for the count.
            needed: fields that no document may lack; None for all requested fields.
            search: the same search in mp-api's terms.
        """
        common = {"deprecated": False, "batch_id_not_eq": "gnome_r2scan_statics", "_limit": 1, "_fields": "material_id"}
        total = self._ask(lambda: self._summary.count({**common, **criteria}))
        progress = Progress(f"Asking for {label}", total, "entries")
        documents: list[dict[str, Any]] = []
        for page in range(1, -(-total // PAGE) + 1):
            answer = self._search(
                fields if needed is None else needed,
                fields=list(fields),
                deprecated=False,
                include_gnome=False,
                num_chunks=1,
                _page=page,
                _sort_fields="material_id",
                **search,
            )
            documents += answer
            progress.advance(len(answer))
        if len(documents) != total:
            raise XtalrlError(
                f"The Materials Project counts {total:,} {label} but sent {len(documents):,}: it may be changing just now. "
                f"Run the same command again later. {self._instead}"
            )
        return documents

    def _search(self, needed: Sequence[str], **search: Any) -> list[dict[str, Any]]:
        """Documents of one request, all of which have the needed fields."""

        def question() -> list[dict[str, Any]]:
            documents: list[dict[str, Any]] = self._summary.search(all_fields=False, chunk_size=PAGE, **search)
            if any(document[name] is None for document in documents for name in needed):
                raise ValueError("a needed field is empty")
            return documents

        return self._ask(question)

    def _heartbeat(self) -> str:
        return str(self._session.get(f"{self._endpoint}heartbeat", timeout=TIMEOUT_S).json()["db_version"])

    def _connect(self) -> Any:
        from mp_api.client import MPRester

        client = MPRester(
            api_key=self._key,
            endpoint=self._endpoint,
            session=self._session,
            use_document_model=False,
            mute_progress_bars=True,
        )
        return client.materials.summary

    def _ask(self, question: Callable[[], _T]) -> _T:
        from mp_api.client.core.exceptions import MPRestError

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_NoAnswer),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_wait,
            before_sleep=self._log_wait,
            reraise=True,
        )
        try:
            answer: _T = attempts(_once, question)
            return answer
        except _NoAnswer as error:
            problem = (
                f"The Materials Project ({self._endpoint}) gave no answer in {ATTEMPTS} attempts: {self._without_key(error)}. "
                "Check the network and the proxy settings (HTTPS_PROXY), and run the same command again."
            )
        except _KeyRefused:
            problem = f"The Materials Project refused the key in {KEY_VARIABLE}, or this machine: copy the key again from {KEY_PAGE}."
        except MPRestError as error:
            problem = f"The Materials Project did not accept a request of mp-api ({self._without_key(error)}): a newer mp-api may be needed."
        raise XtalrlError(f"{problem} {self._instead}")

    def _log_wait(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0.0
        logger.info(
            "%s; attempt %d of %d in %.1f s", self._without_key(error), state.attempt_number + 1, ATTEMPTS, seconds
        )

    def _without_key(self, error: object) -> str:
        """The text of an error, without the URL's long query and without the key, which a server may repeat."""
        text = re.sub(r"(https?://[^\s?]+|url: [^\s?]+)\?\S*", r"\1", " ".join(str(error).split()))
        return text.replace(self._key, "<key>")[:300]

    def _key_from_environment(self) -> str:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            raise XtalrlError(
                f"The Materials Project wants a key, and {KEY_VARIABLE} is not set: log in at {KEY_PAGE}, where a free key is shown, "
                f"`export {KEY_VARIABLE}=<key>`, and run the same command again. {self._instead}"
            )
        if not re.fullmatch(r"[A-Za-z0-9]{32}", key):
            raise XtalrlError(
                f"{KEY_VARIABLE} holds {len(key)} characters, but a key has 32 letters and digits: copy it again from {KEY_PAGE}. "
                f"{self._instead}"
            )
        return key


def _finite(value: Any) -> float | None:
    """A number that the server sent; None if it sent none: JSON has no NaN, which may come as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _check_status(response: requests.Response, *_: Any, **__: Any) -> None:
    if response.status_code in (401, 403):
        raise _KeyRefused
    if response.status_code in TRANSIENT_STATUS:
        raise _NoAnswer(f"the server answered {response.status_code} {response.reason}", _retry_after_s(response))


def _retry_after_s(response: requests.Response) -> float:
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0.0


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_for = error.wait_s if isinstance(error, _NoAnswer) else 0.0
    growing = tenacity.wait_exponential_jitter(multiplier=FIRST_WAIT_S, jitter=FIRST_WAIT_S)(state)
    return min(max(asked_for, growing), LONGEST_WAIT_S)


def _once(question: Callable[[], _T]) -> _T:
    from mp_api.client.core.exceptions import MPRestError

    try:
        return question()
    except requests.RequestException as error:
        raise _NoAnswer(f"{type(error).__name__}: {error}") from None
    except MPRestError as error:
        # mp-api wraps what requests raised, keeping its text only.
        if isinstance(error.__context__, requests.RequestException):
            raise _NoAnswer(f"{type(error.__context__).__name__}: {error}") from None
        raise
    except (ValueError, KeyError, TypeError):
        raise _NoAnswer("an answer that is cut off or not the Materials Project's") from None
