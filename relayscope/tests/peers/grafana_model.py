"""Reads a dashboard with Grafana's own model, and says what of it that does not know.

grafana_model.py FILE: exits 0 when the model, which Grafana generates from its schema, gives back all that
the file says, and every unit is one of Grafana's.
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(said, known, at=""):
    """What is said and not known, place by place. A null says nothing."""
    if isinstance(said, dict) and isinstance(known, dict):
        for key, value in said.items():
            if key in known:
                yield from lost(value, known[key], f"{at}.{key}")
            elif value is not None:
                yield f"{at}.{key} = {value!r}"
    elif isinstance(said, list) and isinstance(known, list) and len(said) == len(known):
        for index, (one, other) in enumerate(zip(said, known)):
            yield from lost(one, other, f"{at}[{index}]")
    elif said != known:
        yield f"{at} = {said!r}, read as {known!r}"


def units_of(said):
    """Every unit that is named, wherever."""
    if isinstance(said, dict):
        if isinstance(said.get("unit"), str):
            yield said["unit"]
        if said.get("id") == "unit":
            yield said["value"]
        for value in said.values():
            yield from units_of(value)
    elif isinstance(said, list):
        for value in said:
            yield from units_of(value)


def main(file):
    with open(file, encoding="utf-8") as opened:
        said = json.load(opened)
    register_default_plugins()
    dashboard = Dashboard.from_json(said)
    known = json.loads(JSONEncoder().encode(dashboard))
    ids = {value for value in vars(units).values() if isinstance(value, str)}
    complaints = list(lost(said, known))
    complaints += [f"no unit of Grafana's: {unit}" for unit in sorted(set(units_of(said)) - ids)]
    # What a row that is collapsed holds is in it.
    inside = [panel for row in dashboard.panels if row.type_val == "row" for panel in row.panels]
    shown = [panel for panel in dashboard.panels if panel.type_val != "row"] + inside
    print(f"{len(shown)} panels", *complaints, sep="\n")
    return 1 if complaints or not shown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
