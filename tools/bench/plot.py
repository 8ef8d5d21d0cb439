#!/usr/bin/env python3
"""Draws the results of kolo-bench: kolo-bench-plot RESULTS.json PICTURE.svg (or .png)."""

import json
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError:
    sys.exit("kolo-bench-plot: Python's matplotlib is missing: install python3-matplotlib")

NOT_LABELS = {"benchmark", "ranks", "method", "quantity", "unit",
              "p25", "median", "p75", "p99", "max", "n", "ratio"}


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def labels(line):
    return {name: value for name, value in line.items() if name not in NOT_LABELS}


def grouped(lines, key):
    """The lines by key, in the order of their first appearance."""
    groups = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups


def draw_sizes(axes, lines):
    """Time over size, a line for each method, quartiles as a band."""
    for method, of_method in grouped(lines, lambda line: line["method"]).items():
        sizes = [line["bytes"] for line in of_method]
        axes.plot(sizes, [line["median"] for line in of_method], marker=".", label=method)
        axes.fill_between(sizes, [line["p25"] for line in of_method],
                          [line["p75"] for line in of_method], alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("bytes")
    axes.legend()


def draw_bars(axes, lines):
    """A bar for each method and case, quartiles as whiskers."""
    names = [" ".join([*map(str, labels(line).values()), line["method"]]) for line in lines]
    medians = [line["median"] for line in lines]
    below = [line["median"] - line["p25"] for line in lines]
    above = [line["p75"] - line["median"] for line in lines]
    axes.barh(names, medians, xerr=[below, above], capsize=3)
    axes.invert_yaxis()


def draw(lines, picture):
    def panel(line):
        own = {name: value for name, value in labels(line).items() if name != "bytes"}
        return (line["quantity"], line["unit"], *(own.values() if "bytes" in line else ()))

    panels = grouped(lines, panel)
    figure, all_axes = pyplot.subplots(len(panels), squeeze=False, layout="constrained",
                                       figsize=(8, 1 + 3.5 * len(panels)))
    first = lines[0]
    figure.suptitle(f"kolo-bench {first['benchmark']}, {first['ranks']} ranks")
    for axes, (key, of_panel) in zip(all_axes.flat, panels.items()):
        quantity, unit, *rest = key
        axes.set_title(" ".join([quantity, *map(str, rest)]))
        if "bytes" in of_panel[0]:
            draw_sizes(axes, of_panel)
            axes.set_ylabel(unit)
        else:
            draw_bars(axes, of_panel)
            axes.set_xlabel(unit)
    figure.savefig(picture)


def main():
    if sys.argv[1:] == ["--check"]:
        return
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(read(sys.argv[1]), sys.argv[2])


main()
