"""The red-team table: completions that try to fool a reward, and what five rewards make of them.

    cases()      the cases, written by hand: lab/red_team.jsonl
    verdicts()   what each reward said, measured: lab/red_team_verdicts.jsonl
    python -m lab.red_team     measures the second file again (a quarter of an hour: each bomb
                               holds TRL's rewards for five to ten seconds)

A case has an id, a group, a gold, the reward for format and accuracy that is right, and why.
Its completion is a chat or a string, or `answer`, the inside of an otherwise flawless
completion, or `parts`, strings and [string, repetitions].
"""

import json
import multiprocessing
import time
from pathlib import Path

TABLE = Path(__file__).with_name("red_team.jsonl")
VERDICTS = TABLE.with_name("red_team_verdicts.jsonl")
PATIENCE_S = 30  # for one reward on one completion; TRL's alarms add up to 15 s
MEMORY_GB = 4


def cases():
    """Load all cases, as dicts, each with its `completion` written out."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return [{**case, "completion": _completion(case)} for case in map(json.loads, lines)]


def verdicts():
    """Load one dict per case: id, and for each reward what it gave and the seconds it took."""
    return [json.loads(line) for line in VERDICTS.read_text(encoding="utf-8").splitlines()]


def errors(reward, kind="accuracy"):
    """Find the cases in which a reward gave something else than it should have.

    reward   str   a column of `verdicts`, such as "naive_accuracy"
    kind     str   "accuracy" or "format": what the reward is for
    returns  ([case], [case])   paid though wrong, and not paid though right
    """
    given = {row["id"]: row[reward]["gave"] for row in verdicts()}
    paid = [c for c in cases() if c[kind] != 1.0 and given[c["id"]] == 1.0]
    unpaid = [c for c in cases() if c[kind] == 1.0 and given[c["id"]] != 1.0]
    return paid, unpaid


def rewards():
    """Return the rewards of the table by name. Importing TRL takes seconds, so only here."""
    from trl.rewards import accuracy_reward as trl_accuracy
    from trl.rewards import reasoning_accuracy_reward as trl_reasoning_accuracy
    from trl.rewards import think_format_reward as trl_think_format

    from lab.naive_rewards import naive_accuracy_reward, naive_format_reward
    from rewards import accuracy_reward, format_reward

    return {
        "accuracy": accuracy_reward,
        "naive_accuracy": naive_accuracy_reward,
        "naive_accuracy_boxed": boxed(naive_accuracy_reward),
        "trl_accuracy": trl_accuracy,
        "trl_accuracy_boxed": boxed(trl_accuracy),
        "trl_reasoning_accuracy_boxed": boxed(trl_reasoning_accuracy),
        "format": format_reward,
        "naive_format": naive_format_reward,
        "trl_think_format": trl_think_format,
    }


def boxed(reward):
    r"""Return the same reward, which gets each bare answer in a \boxed{}.

    Naive rewards do not read a bare answer at all, right or wrong; what they make of its
    mathematics shows only in a box.
    """

    def of_boxed(completions, **columns):
        return reward([_box(completion) for completion in completions], **columns)

    return of_boxed


def _box(chat):
    if not chat or not isinstance(chat[-1], dict) or not isinstance(chat[-1].get("content"), str):
        return chat
    before, opening, rest = chat[-1]["content"].rpartition("<answer>")
    answer, closing, after = rest.partition("</answer>")
    if not opening or not closing or any(mark in answer for mark in ("\\boxed", "$", "\\(", "\\[")):
        return chat
    text = before + opening + "\\boxed{" + answer + "}" + closing + after
    return [*chat[:-1], {**chat[-1], "content": text}]


def as_chat(completion):
    """Turn a string into the chat of one message; a chat stays as it is."""
    if isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    return completion


def judge(reward, case):
    """Return what one reward gives one case, or the exception it raises."""
    try:
        return reward(completions=[as_chat(case["completion"])], solution=[case["gold"]])[0]
    except Exception as error:  # noqa: BLE001  that it raises is the finding
        return type(error).__name__


def _completion(case):
    if "answer" in case:
        return f"<think>\nstep by step\n</think>\n<answer>{case['answer']}</answer>"
    if "parts" in case:
        parts = [[part, 1] if isinstance(part, str) else part for part in case["parts"]]
        return "".join(text * times for text, times in parts)
    return case["completion"]


def _judge_here(reward, case, results):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB * 2**30, MEMORY_GB * 2**30))
    results.put(judge(reward, case))


def _measure(reward, case):
    """Run it in a forked process of its own: some of these never return."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_judge_here, args=(reward, case, results))
    start = time.perf_counter()
    process.start()
    process.join(PATIENCE_S)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    gave = "hangs" if late else "dies" if results.empty() else results.get()
    return {"gave": gave, "seconds": round(time.perf_counter() - start, 1)}


def _measure_here(reward, case):
    start = time.perf_counter()
    return {"gave": judge(reward, case), "seconds": round(time.perf_counter() - start, 1)}


def main():
    from tqdm import tqdm

    table = rewards()
    plain = next(c for c in cases() if c["accuracy"] == 1.0 and c["group"] == "algebra")
    for reward in table.values():  # imports, our worker and the parser's tables, once for all
        judge(reward, plain)
    with VERDICTS.open("w", encoding="utf-8") as file:
        for case in tqdm(cases(), unit="case"):
            row = {"id": case["id"]}
            for name, reward in table.items():
                safe = name in ("accuracy", "format") or case["group"] not in ("bomb", "gold")
                row[name] = (_measure_here if safe else _measure)(reward, case)
            file.write(json.dumps(row) + "\n")
            file.flush()
    for name in table:
        paid, unpaid = errors(name, "format" if "format" in name else "accuracy")
        slowest = max(row[name]["seconds"] for row in verdicts())
        print(f"{name:24} paid though wrong {len(paid):4}, ", end="")
        print(f"unpaid though right {len(unpaid):4}, slowest {slowest:5.1f} s")


if __name__ == "__main__":
    main()
