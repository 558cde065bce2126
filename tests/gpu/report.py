"""The GPU check's report as Markdown: the machine, then a table a part."""

from __future__ import annotations


def markdown(report: dict) -> str:
    machine = report["machine"]
    lines = ["# GPU check", ""]
    if report["tiny"]:
        lines += ["Tiny sizes: this says that everything runs, and nothing about speed.", ""]
    card = machine["card"]
    named = ", ".join(f"{key} {value}" for key, value in card.items()) if isinstance(card, dict) else card
    lines += [
        f"- card: {named}",
        f"- device: {report['device']}; torch {machine['torch']}, CUDA {machine['cuda']}",
        f"- processor: {machine['processor']}, {machine['cores']} cores; Python {machine['python']}",
        f"- packages missing: {', '.join(machine['missing']) or 'none'}",
        f"- time for everything: {report['seconds']:.0f} s",
    ]
    for part in report["parts"]:
        lines += ["", f"## {part['part']}: {part['status']}", "", summary(part)]
        if part["rows"]:
            lines += ["", *table(part["rows"])]
    return "\n".join(lines) + "\n"


def summary(part: dict) -> str:
    words = [f"{part['seconds']:.0f} s"]
    if "peak_device_gib" in part:
        words.append(f"peak memory of the card {part['peak_device_gib']:.2f} GiB")
    if "peak_rss_gib" in part:
        words.append(f"of the process {part['peak_rss_gib']:.2f} GiB")
    if part.get("reason"):
        words.append(part["reason"])
    return "; ".join(words)


def table(rows: list[dict]) -> list[str]:
    """Lines of a Markdown table over all columns that a row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [cell(row.get(column, "")) for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
