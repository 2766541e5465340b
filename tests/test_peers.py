"""Scripts beside peers write their own row of bench/peers.csv, and no other."""

import csv
import shutil

from bench import peer


def rows(table) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_script_writes_its_row_in_the_place_of_its_last_one(tmp_path):
    table = tmp_path / "peers.csv"
    shutil.copy(peer.TABLE, table)
    before = rows(table)
    script = peer.ROOT / before[1]["script"]
    assert script.is_file()
    peer.record(str(script), "a peer", "patterns", 3, 2, 6.25e-8, 30.0, 4.0, "prompts per second", 30, table=table)
    after = rows(table)
    assert after[0] == before[0] and after[2:] == before[2:] and list(after[1]) == list(before[1])
    told = {name: after[1][name] for name in ("peer", "cases", "equal", "largest_difference", "ratio", "aimed_at")}
    assert told == {"peer": "a peer", "cases": "3", "equal": "2", "largest_difference": "6.2e-08", "ratio": "7.5",
                    "aimed_at": "30"}  # fmt: skip
    assert "cores" in after[1]["machine"] and len(after[1]["date"]) == 10
    peer.record("bench/another.py", "b", "pairs", 1, 1, 0.0, 2.0, 1.0, "pairs per second", table=table)
    assert rows(table)[:-1] == after and rows(table)[-1]["aimed_at"] == "" and rows(table)[-1]["ratio"] == "2"


def test_every_row_is_of_a_script_that_records():
    for row in rows(peer.TABLE):
        assert "record(" in (peer.ROOT / row["script"]).read_text(encoding="utf-8")
