"""Draw the lessons' diagrams from boxes and arrows: notebooks/diagrams/*.svg.

    python -m lab.diagrams          draws all of them again

Every diagram has a title and a description for whoever does not see it. No meaning stands in a colour alone. Proof: tests/lab/test_diagrams.py
"""

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "diagrams"
# Lighter by ten steps of L* each, so that a print in grey shows which is which.
FILL = {"data": "#FFFFFF", "frozen": "#ABABAB", "trained": "#9CCBE6", "made": "#FBE0A6"}


class Sheet:
    """An SVG that grows by boxes, arrows and words. Units are pixels."""

    def __init__(self, width, height, title, words):
        self.size, self.title, self.words, self.parts = (width, height), title, words, []

    def box(self, x, y, width, height, lines, kind="data", dashed=False):
        """Draw a rectangle with up to a few lines of text in its middle."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
            f'fill="{FILL[kind]}" stroke="#333333" stroke-width="1.5"{dash}/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for i, line in enumerate(lines):
            self.text(x + width / 2, top + 18 * i, line, "middle", "bold" if i == 0 else "normal")

    def text(self, x, y, line, anchor="start", weight="normal", size=14):
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" '
            f'font-size="{size}">{escape(line)}</text>'
        )

    def arrow(self, x1, y1, x2, y2, label="", above=6):
        """Draw a line with a head, and a label over its middle."""
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#333333" '
            'stroke-width="1.8" marker-end="url(#head)"/>'
        )
        if label:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - above, label, "middle", size=12)

    def svg(self):
        width, height = self.size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" font-family="sans-serif" fill="#111111">\n'
            f"<title>{escape(self.title)}</title>\n<desc>{escape(self.words)}</desc>\n"
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="#333333"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" fill="#FFFFFF"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def chain():
    """Draw the four stages, what each learns from, and what it improves."""
    sheet = Sheet(
        860,
        230,
        "The chain of stages",
        "Base, SFT, DPO and GRPO follow each other. The base learns from raw text, SFT from "
        "demonstrations, DPO from pairs of its own answers, GRPO from its own answers and a checker. "
        "SFT brings the form, DPO the style, GRPO the right answer.",
    )
    stages = [
        ("base", "raw text", "knows things"),
        ("SFT", "demonstrations", "the form, a first skill"),
        ("DPO", "pairs of own answers", "the style"),
        ("GRPO", "own answers, a checker", "the right answer"),
    ]
    for i, (name, source, gain) in enumerate(stages):
        x = 20 + 215 * i
        sheet.box(x, 20, 175, 44, [source])
        sheet.arrow(x + 87, 64, x + 87, 98, "")
        sheet.box(
            x,
            100,
            175,
            56,
            [name, "next token" if i < 2 else "log-sigmoid" if i == 2 else "policy gradient"],
            "trained",
        )
        if i:
            sheet.arrow(x - 40, 128, x - 3, 128)
        sheet.text(x + 87, 186, gain, "middle")
    sheet.text(
        20,
        216,
        "above: what it learns from; below: what it improves; base trains all weights, the others an adapter",
        size=12,
    )
    return sheet


def mask():
    """Draw which tokens of a chat a loss counts."""
    tokens = ["user:", "8", "+", "7", "=", "?", "end", "assist.:", "1", "5", "end", "pad"]
    counts = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]
    sheet = Sheet(
        860,
        184,
        "The mask over a chat",
        "One row of twelve tokens. The mask is 0 on the prompt and on padding, and 1 on the answer and on "
        "the end of its turn. Each counted token is predicted from all tokens before it.",
    )
    for i, (token, count) in enumerate(zip(tokens, counts)):
        x = 20 + 69 * i
        sheet.box(x, 50, 63, 40, [token], "trained" if count else "frozen", dashed=token == "pad")
        sheet.text(x + 31, 118, str(count), "middle", "bold" if count else "normal")
    sheet.text(20, 34, "one row: the prompt, the answer, padding")
    sheet.text(
        20, 142, "completion_mask: 1 on what is learnt, the end of the turn among it", size=12
    )
    sheet.text(20, 164, "each counted token is predicted from all the tokens on its left", size=12)
    return sheet


def qlora():
    """Draw a linear layer: four-bit weights that stay, two small matrices that learn."""
    sheet = Sheet(
        760,
        250,
        "LoRA over 4-bit weights",
        "The input goes through the frozen weight, stored in 4 bits and read back for each use, and beside "
        "it through A, which has r rows, and B, which has r columns. The two results are added, the second "
        "times alpha over r. Only A and B are trained.",
    )
    sheet.box(20, 100, 110, 50, ["x", "the input"])
    sheet.box(
        230, 25, 280, 66, ["W, out × in, frozen", "4-bit codes and a scale for each 64"], "frozen"
    )
    sheet.box(230, 160, 120, 60, ["A, r × in", "trained"], "trained")
    sheet.box(390, 160, 120, 60, ["B, out × r", "starts at 0"], "trained")
    sheet.box(610, 100, 130, 50, ["y", "the output"], "made")
    sheet.arrow(130, 115, 228, 62)
    sheet.arrow(130, 135, 228, 188)
    sheet.arrow(350, 190, 388, 190)
    sheet.arrow(510, 58, 608, 115, "Ŵ x", 10)
    sheet.arrow(510, 190, 608, 136, "", 0)
    sheet.text(560, 196, "α/r · B A x", "middle", size=12)
    return sheet


def grpo_step():
    """Draw one step of GRPO with two copies of the weights."""
    sheet = Sheet(
        860,
        230,
        "A step of GRPO with two copies of the weights",
        "The trainer holds 4-bit weights and an adapter, the sampler a plain copy. Before a generation the "
        "copy is brought up to date. The sampler writes several completions for each prompt, a program "
        "scores them, the group's mean is taken off, and the trainer moves its adapter. Both score the "
        "same tokens; a gap beyond rounding stops the run.",
    )
    sheet.box(20, 30, 210, 74, ["trainer", "4-bit base + adapter", "gradients"], "trained")
    sheet.box(
        630, 30, 210, 74, ["sampler (vLLM)", "plain copy of the weights", "no gradients"], "frozen"
    )
    sheet.arrow(230, 44, 628, 44, "1. sync: what has changed")
    sheet.arrow(735, 104, 735, 158, "")
    sheet.text(745, 136, "2. sample", size=12)
    sheet.box(630, 160, 210, 50, ["G completions", "of each prompt"], "made")
    sheet.arrow(630, 185, 542, 185, "3. score")
    sheet.box(330, 160, 210, 50, ["rewards", "a program, no gradient"])
    sheet.arrow(330, 185, 232, 185, "4. − mean")
    sheet.box(20, 160, 210, 50, ["advantages", "of each group"], "made")
    sheet.arrow(125, 160, 125, 106, "")
    sheet.text(135, 136, "5. step of the adapter", size=12)
    words = ["the same tokens, scored by both", "their gap is rounding, or the run stops"]
    sheet.box(290, 64, 280, 46, words, dashed=True)
    sheet.arrow(230, 87, 288, 87)
    sheet.arrow(630, 87, 572, 87)
    return sheet


DIAGRAMS = {"chain": chain, "mask": mask, "qlora": qlora, "grpo_step": grpo_step}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DIAGRAMS.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
        print(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
