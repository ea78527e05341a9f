"""Build notebooks/10_the_clinic.ipynb from its cells."""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rlhf_mini.checks.clinic import check_diagnosis
from rlhf_mini.teaching.clinic import diagnose
from rlhf_mini.teaching.clinic_cases import clinic

HIDE = {"jupyter": {"source_hidden": True}}
ANSWER = {"jupyter": {"outputs_hidden": True}}
cells = []
def md(id, text): cells.append(new_markdown_cell(text.strip("\n"), id=id))
def code(id, text, **meta): cells.append(new_code_cell(text.strip("\n"), id=id, metadata=meta))

md("head", """
# 10 · The clinic

Here are eleven recorded runs of PPO. Ten of them have one fault each, put in by a script, and one is healthy. You read
their logs, name the fault, and give the evidence.

**Goals.** You can

- check the first line of a log before anything else;
- tell a number that is unusual from one that is only noisy;
- name the quantity and the iteration that prove a cause;
- write a rule that raises an alarm, and test it on runs that it was not written for.

**Time:** about 75 minutes for a person: 8 to read, 5 for each case and for the exercise. The machine needs 15 seconds.

**Before this:** [05](05_ppo_from_parts.ipynb) and [06](06_ppo_with_kl.ipynb). Keep [09](09_metrics.ipynb), the page of
metrics, open beside this page.
""")
code("imports", """
import sys

sys.path.insert(0, "..")  # the package, where it is not installed
%load_ext rlhf_mini.teaching.notebook

import numpy as np

from rlhf_mini import checks
from rlhf_mini.teaching import alarms, clinic_plots
from rlhf_mini.teaching import clinic as reader
from rlhf_mini.teaching.clinic_cases import case_lines, clinic, first_unusual, lines_of
from rlhf_mini.teaching.clinic_plots import show_case
from rlhf_mini.teaching.notebook import show
from rlhf_mini.teaching.predictions import predict

PATIENTS = clinic()
""", **HIDE)
md("read", """
## 1 · What a healthy log looks like

All runs here start from the same fine-tuned model and the same reward model. Each has 20 iterations of 64 endings. The
learning rate falls in a line and is almost 0 at the end.

A line of the log describes two moments. Score, KL, length and gold belong to the endings, which were written *before*
the update of that iteration. The clip fraction, the losses and the gradient norm belong to the update itself. So three
things must hold on line 1:

- The policy is still the fine-tuned model. Its scores have mean 0 and standard deviation 1.
- The policy is still the reference. Both KLs are 0: `kl`, the exact one, and `kl_k1`, the one from sampled tokens.
- The ratio is 1 before the first step of the update. This is `ratio_first`, and it must hold in *every* iteration.

Only then look at the rest.

| ask | quantity | healthy |
|---|---|---|
| Does it start right? | `score`, `score_std`, `kl`, `kl_k1` on line 1 | 0, 1, 0, 0 |
| Do sampling and update agree? | `ratio_first` | 1, to the sixth digit |
| How far does one update move the policy? | `clip_fraction`, `approx_kl` | a few per cent at most, and falling |
| Does the KL cost something? | `kl`, `kl_coef`, `reward` | `kl` settles; `reward` is below `score` |
| Does an adaptive coefficient follow the KL? | `kl_coef` | it rises while the KL is above 4 nats per ending |
| Does PPO improve what it maximises? | `reward` | it rises, or stays |
| Does the value head learn? | `value_loss`, `explained_variance` | it falls; it rises |
| Is the loss that of whitened advantages? | `policy_loss` | near 0, and closer as the learning rate falls |

Two healthy runs follow. Iterations differ by chance, because 64 endings are few.
""")
code("guess-swing", """
guess_swing = predict("In a healthy run, the largest jump of the KL from one iteration to the next, in nats?")
guess_swing
""")
code("healthy", """
first, second = PATIENTS.references
clinic_plots.case_plots(first, [second], "One healthy run (orange), and another (grey)")
swing = max(np.abs(np.diff(one["kl"])).max() for one in (first, second))
guess_swing.beside(f"{swing:.1f} nats")
""", **ANSWER)
md("causes", """
A single jump of that size proves nothing. Look for what lasts, or for what can never happen.

## 2 · What the script put in

Each run has one of these. In the code each is a few lines: see `assets/record/clinic.py`.

| cause | what was done |
|---|---|
| `healthy` | nothing |
| `KL sign` | the penalty has the wrong sign: PPO is paid for KL |
| `KL per token` | the adaptive controller gets the KL per token; its target, 4 nats, is per ending. It starts at 0.05 |
| `temperature` | the old log-probabilities lack the division by the temperature, 0.7 |
| `EOS masked` | the mask of the update leaves the EOS token out |
| `score at the pad` | rows are filled with EOS to 160 tokens, and the reward model is read in the last column |
| `whitened returns` | the advantages are whitened first, and the returns are made from them |
| `learning rate` | it is 50 times too high |
| `no KL` | the KL coefficient is 0 |
| `own reference` | the reference is the policy itself, not the frozen model |
| `dropout` | dropout of 0.1 is on in the updates, and off while sampling |

Start with an alarm of your own.

**Exercise 1 · an alarm for the ratio (core).** The first ratio of each update must be 1. Write a function that lists the
iterations where it is more than 0.001 away from 1. A history is a list of dicts, as the lines of `history.jsonl` are.

<details><summary>Hint 1</summary>A ratio of 0.9 is as wrong as one of 1.1: use <code>abs</code>.</details>
<details><summary>Hint 2</summary>The keys are <code>line["iteration"]</code> and <code>line["ratio_first"]</code>. A run
may be continued, so the first line need not be iteration 1.</details>
""")
code("stub-ratio", '''
def my_ratio_alarm(history):
    """A list of dicts with "iteration" and "ratio_first" -> the list of iterations whose ratio is wrong."""
    ...
''')
code("check-ratio", """
checks.check_ratio_alarm(my_ratio_alarm)
""")
md("solution-ratio", """
<details><summary>Solution</summary>

```python
def my_ratio_alarm(history):
    return [line["iteration"] for line in history if abs(line["ratio_first"] - 1) > 0.001]
```

</details>
""")
code("guess-ratio", """
guess_ratio = predict("In how many of the eleven runs does this alarm go off?")
guess_ratio
""")
code("count-ratio", """
rings = [bool(reader.ratio_is_off(reader.Run.of(case_lines(number))).any()) for number in PATIENTS.numbers]
guess_ratio.beside(f"in {sum(rings)} of {len(rings)}")
""", **ANSWER)
md("cases", """
## 3 · Eleven cases

For each case you see the history, three endings of the last iteration, and six plots. Replace the `...` by a cause, a
quantity and an iteration, such as `("no KL", "kl", 8)`. The iteration is one from which the quantity is clearly
unusual. For a healthy run write `"healthy"`.

The check gives one point for the cause and one for the evidence. The evidence counts if the quantity tells this cause
from the others. For example, the gold reward falls with several faults, so it proves none of them.
""")

TEXT = json.loads((ROOT / "draft/solutions.json").read_text())
PAT = clinic()
for n in PAT.numbers:
    cause = PAT.cause(n)
    md(f"case-{n}", f"### Case {n}" + (f"\n\n{TEXT['intro'][cause]}" if cause in TEXT["intro"] else ""))
    code(f"show-{n}", f"show_case({n})")
    code(f"diagnosis-{n}", f"diagnosis_{n} = ...  # cause, quantity, iteration")
    code(f"check-{n}", f"checks.check_diagnosis({n}, diagnosis_{n})")
    if cause == "healthy":
        answer = '"healthy"'
    else:
        e = diagnose(PAT.history(n))[0].evidence
        q, i = TEXT["evidence"].get(cause, [e.quantity, e.iteration])
        answer = f'("{cause}", "{q}", {i})'
        got = check_diagnosis(n, eval(answer)); assert got.points == 2, got
    md(f"solution-{n}", f"""
<details><summary>Solution</summary>

```python
diagnosis_{n} = {answer}
```

{TEXT['why'][cause]}

</details>
""")

md("reader", """
## 4 · A program that reads the log

`rlhf_mini.teaching.clinic.diagnose(history)` does what you did. It has ten rules of a few lines. Two of them look at
the ratio, and they differ in one question: do both KLs agree on line 1?
""")
code("show-rules", """
show(reader.temperature, reader.dropout)
""")
md("frozen", """
The thresholds were chosen with the eleven runs above, two more healthy runs, and the five healthy runs of README's
table. A rule that fits the runs it was written for proves little. So the rules were frozen first. Then each fault was
recorded again with another seed.
""")
code("guess-right", """
guess_right = predict("Of the eleven runs with another seed, how many does the program read correctly?")
guess_right
""")
code("diagnoses", """
def read_as(history):
    return next(iter(reader.diagnose(history)), None)


again = {number: read_as(PATIENTS.again(number)[0]) for number in PATIENTS.numbers}
for number in PATIENTS.numbers:
    evidence = [one.evidence if one else "nothing" for one in (read_as(case_lines(number)), again[number])]
    print(f"{number:2} {PATIENTS.cause(number):17} {evidence[0]!s:40} again: {evidence[1]}")
right = sum((found.cause if found else "healthy") == PATIENTS.cause(number) for number, found in again.items())
guess_right.beside(f"{right} of {len(again)}")
""", **ANSWER)
md("whole-runs", """
Runs of another length are a harder test. `assets/seed_histories.json` holds five whole runs of 60 iterations of 128
endings, each with a healthy arm and one without KL. Fewer quantities were kept: `ratio_first` and `kl_coef` are
missing, so rules that need them stay silent. Two poor histories are there as well: one is short, the other has a single
quantity.

The last line is a run with a real mistake. The score is read at the pad again, but rows are filled only to the length
of the longest. A pad token sees the whole ending, so the score that is read there is nearly right.
""")
code("read-whole", """
SEEDS = alarms.seed_histories()
for arm in ("ppo", "ppo_no_kl"):
    print(f"{arm:9}", *(f"seed {seed}: {read_as(arms[arm]).cause if read_as(arms[arm]) else 'nothing'};"
                        for seed, arms in SEEDS.items()))
print("five lines of a healthy run:", read_as(lines_of(first)[:5]))
print("score alone:", read_as([{"iteration": i, "score": 0.1 * i} for i in range(1, 21)]))
print("a fault that does little:", read_as(*PATIENTS.harmless.values()) or "nothing")
""")
md("order", """
"Not enough to tell" is an answer too. It is not the same as "healthy". And "nothing" does not mean that the code is
right: it means that this log shows no mistake. A mistake that moves no number is found by a test of the code, not by a
log.

## 5 · Which alarm comes first?

One run cannot answer this, because chance decides by an iteration or two. The picture counts all recorded seeds of each
fault. A quantity is unusual where it leaves the range of healthy runs for two iterations in a row.
""")
code("guess-first", """
guess_first = predict("Without KL, which of kl, gold, coherent, length becomes unusual first?")
guess_first
""")
code("matrix", """
KEYS = ("ratio_first", "kl_k1", "clip_fraction", "approx_kl", "kl", "kl_coef", "score", "score_std", "reward",
        "value_loss", "policy_loss", "gold", "coherent", "length", "ended")
signs = {PATIENTS.cause(number): first_unusual(number, KEYS) for number in PATIENTS.numbers}
clinic_plots.first_signs(signs)
guess_first.beside(clinic_plots.in_order(signs["no KL"], ("kl", "gold", "coherent", "length")))
""", **ANSWER)
md("five", """
The same question for the five whole runs: from which iteration on can the two arms be told apart?
""")
code("apart", """
apart = alarms.first_apart(SEEDS, ("kl", "score", "gold", "coherent", "length"))
for seed, found in apart.items():
    print(f"seed {seed}: {alarms.in_order(found)}")
""")
md("end", """
## What you have seen

- Line 1 of the log is worth reading alone. The policy is still the fine-tuned model, so the right values are known.
- Some numbers can never be what they are in a sound run: a ratio that is not 1 before a step, a KL of exactly 0. They
  prove a fault at once.
- Other faults show only over many iterations, and only beside healthy runs.
- A score that rises proves nothing: it rises with most of these faults.
- `EOS masked` hides best. Endings, score and KL look healthy here. Only the policy loss shows that the advantages were
  whitened with one mask, and the loss taken with another.

**What this cannot tell.** A log shows consequences. The program names a cause that fits, and another mistake may leave
the same traces. With two faults at once, the stronger one may hide the other. A fault in the code that writes the log is
seen by nobody.

**Try this**

1. Change `dropped` in `assets/record/clinic.py` to 0.01 and record one part again. Does the alarm still go off?
2. Put in a fault of your own, for instance a value head whose rate is 0, and write the rule that finds it.
3. Give your history to somebody else, without its name.
""")
nb = new_notebook(cells=cells, metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}})
nbformat.validate(nb)
nbformat.write(nb, ROOT / "notebooks/10_the_clinic.ipynb")
