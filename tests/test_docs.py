"""README is a newcomer's page, and what it and docs/ link to is there."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from defaults import of_the_default_run
from safetensors.numpy import save_file

from stages.store import paths

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`((?:stages|bench|full|reports|docs|tests)/[\w./-]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not re.match(r"https?:", link)]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            titles = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link


def test_readme_is_short_and_leads_to_every_page_of_docs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= set(LINK.findall(text))


def test_programs_that_the_lock_does_not_install_are_installed_where_docs_call_them():
    installed = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        text = page.read_text(encoding="utf-8")
        for program in ("pre-commit", "ruff", "pytest", "ray"):
            calls = re.findall(rf"(?m)(?:^|&& |`|-m )({program} (?:install|check|start|-q).*)", text)
            there = re.search(rf"(?m)^{program}==", installed) or f"pip install {program}" in text
            assert not calls or there, (page.name, calls)


def test_what_docs_call_files_of_reports_and_params_exists():
    """Names in backticks that are paths of the repository, without a placeholder, are there."""
    for page in PAGES:
        for name in re.findall(
            r"`((?:stages|bench|full|reports|docs|tests)/[\w./-]+)`", page.read_text(encoding="utf-8")
        ):
            made = name.startswith(("reports/look", "reports/compare"))  # by the user
            assert made or (ROOT / name).exists(), (page.name, name)


def test_docs_state_every_table():
    from stages.store import describe, tables

    tables_of_rows = {name: table for name, table in vars(tables).items() if isinstance(table, tables.Table)}
    for name, table in tables_of_rows.items():
        assert set(table.key) <= set(table.schema.names), name
    said = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    assert said == describe.page(), "run python -m stages.store.describe"


def test_the_snippet_of_vectors_reads_what_steer_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vectors = paths.vectors("decoder")
    vectors.parent.mkdir(parents=True)
    of = {"capitalize.function": {"layers": [3], "strength": 2.0, "heads": 4}}
    note = json.dumps({"slot": "decoder", "heads": [[3, 1]], "vectors": of})
    save_file({"capitalize.function": np.array([[3, 4]], np.float32)}, vectors, metadata={"provenance": note})
    text = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out == "capitalize.function after layer 3 norm 10.0\n"


@of_the_default_run  # of edited params the page may be of before, and show no longer study
def test_every_link_of_the_page_leads_to_a_file_or_to_a_place_in_it():
    page = ROOT / "reports" / "index.html"
    html = page.read_text(encoding="utf-8").partition('<script type="application/json"')[0]
    places = set(re.findall(r'id="([^"]+)"', html))
    links = {link for link in re.findall(r'href="([^"]+)"', html) if not link.startswith("https:")}
    assert any("full/" in link for link in links) and any(link.startswith("#") for link in links)
    assert [link for link in links if link[0] == "#" and link[1:] not in places] == []
    assert [link for link in links if link[0] != "#" and not (page.parent / link).is_file()] == []
