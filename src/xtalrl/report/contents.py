"""Every table and figure of a run: file name, title, and what it shows. Targets, report and documents all follow this list."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xtalrl.config import Config, validate

if TYPE_CHECKING:
    from xtalrl.metrics.scoring import Scoring
    from xtalrl.report.columns import Column
    from xtalrl.report.layout import Table
    from xtalrl.report.marks import Drawing
    from xtalrl.report.results import Results

Runs = Literal["all", "ordinary", "sweep"]
"""Kind of runs that an entry belongs to; a sweep is a run with `sweep.settings`."""
Files = Mapping[str, str | Path | Sequence[str | Path] | None]
"""Files of a run by name; None for one that the run does not have."""

_DESIGNS = ("evaluation", "labels")
_HULL = (*_DESIGNS, "stability")
_SAMPLING = ("bootstrap_samples", "confidence")
_POLICIES = ("policies", *_SAMPLING)
_DESIRED_RANGE = (*_POLICIES, "window_ev", "targets_ev")
_CAMPAIGN = (
    "campaign_screenings", "campaign_outcomes", "campaign_hits", "campaign_confirmation", "campaign_confirmation_outcomes",
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    """A table (`tables/{name}.csv`, `.md`, `.tex`, `.txt` with its caption) or figure (`figures/{name}.png`, `.pdf`, `.csv`).

    `title` and `caption` are plain text. `make` names the function in this package that makes the entry from `Results` and `Scoring` alone;
    `inputs` are the files of the `Results` that the function reads, and `settings` the values that it takes from `Scoring` and `Results`
    (`settings_of`), so that no other change makes Snakemake plan the entry again. A table's `keys` are the columns of its CSV that say what a
    row is about, `columns` the estimates (each with `_low`, `_high`, `_n`, `_interval`, and `_paper` if the paper has it); a table without
    `columns` is shown as it is.

    An entry with one of these flags exists only in some runs: `needs_labels`, where not only external crystals are evaluated;
    `needs_snapshots`, with `training.snapshots`; `needs_confirmation`, with `evaluation.confirm`; `needs_campaign`, with a campaign;
    `needs_baselines`, where `campaign.baselines` names some; `needs_policies`, where the run has policies of its own; `needs_ordinary`, where it evaluates designs
    other than those of the sweep.
    """

    name: str
    title: str
    caption: str
    make: str
    inputs: tuple[str, ...]
    settings: tuple[str, ...]
    keys: tuple[str, ...] = field(default=(), kw_only=True)
    estimates: str = field(default="", kw_only=True)
    """Name, in `xtalrl.report.columns`, of the table's `columns`."""
    runs: Runs = field(default="all", kw_only=True)
    needs_labels: bool = field(default=False, kw_only=True)
    needs_snapshots: bool = field(default=False, kw_only=True)
    needs_confirmation: bool = field(default=False, kw_only=True)
    needs_campaign: bool = field(default=False, kw_only=True)
    needs_baselines: bool = field(default=False, kw_only=True)
    needs_policies: bool = field(default=False, kw_only=True)
    needs_ordinary: bool = field(default=False, kw_only=True)

    @property
    def reads_scfs(self) -> bool:
        """Whether it counts SCFs of designs, which may be a sample of them."""
        return "evaluation" in self.inputs

    def recorded(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of `settings_of` whose change makes it again; the sample only where there is one, so that older results stay."""
        sample = {"sample": settings["sample"]} if settings["sample"] and self.reads_scfs else {}
        return {name: settings[name] for name in self.settings} | sample

    @property
    def columns(self) -> tuple[Column, ...]:
        """The estimates. They are imported only here, so that Snakemake, which reads this list at every start, needs neither pymatgen nor SciPy."""
        from xtalrl.report import columns

        return getattr(columns, self.estimates) if self.estimates else ()

    @property
    def function(self) -> Callable[[Results, Scoring], Table | Drawing]:
        """The function that makes the entry. It is imported only here, as the columns are."""
        module, _, name = self.make.partition(".")
        function: Callable[[Results, Scoring], Table | Drawing]
        function = getattr(importlib.import_module(f"xtalrl.report.{module}"), name)
        return function


TABLES = (
    Content(
        "table1_composition",
        "Table 1. Compositions of the designs, before any SCF.",
        "Accuracy and similarity are over atoms, novelty over valid designs, the rest over all designs.",
        "estimates.table1", ("assessments",), _POLICIES,
        keys=("policy",), estimates="TABLE1",
    ),
    Content(
        "table2_dft_success",
        "Table 2. SCFs of the designs.",
        "Success by the paper's rules, and with what an extended recovery saved. EMD: earth mover's distance from the "
        "validation labels. Raw gaps may be negative (overlapping bands); the others are clipped at 0.",
        "estimates.table2", _DESIGNS, _POLICIES,
        keys=("policy",), estimates="TABLE2",
    ),
    Content(
        "table3_settings_1.12ev",
        "Table 3. Settings of the reward with the total energy, target 1.12 eV.",
        "Rows: α₁-α₂-β of eq. 16 at two conservatism weights.",
        "estimates.table3", _DESIGNS, _POLICIES,
        keys=("policy", "setting", "omega"), estimates="TABLE3", runs="sweep",
    ),
    Content(
        "table4_settings_4ev",
        "Table 4. Settings of the reward with the total energy, target 4 eV.",
        "Rows: α₁-α₂-β of eq. 16 at two conservatism weights.",
        "estimates.table4", _DESIGNS, _POLICIES,
        keys=("policy", "setting", "omega"), estimates="TABLE3", runs="sweep",
    ),
    Content(
        "desired_range",
        "Designs in the desired range.",
        "ν: gap within the window around the target. κ: gap within the window while that of the true crystal lies outside it. Each over all designs, over "
        "the successes, and by the paper's rules (designs that only an extended recovery made converge counted as failures).",
        "estimates.desired_range_table", _DESIGNS, _DESIRED_RANGE,
        keys=("policy", "target_ev"), estimates="DESIRED_RANGE",
    ),
    Content(
        "predicted_range",
        "Designs in the desired range, by the predictor, before any SCF.",
        "ν is the mean probability of a gap within the window around the target; a design without an SCF (invalid, or dropped by the recovery in use) has none. The predictor is "
        "the one that ships with xtalrl.",
        "off_policy.predicted_range_table", ("assessments", "predictions"), (*_DESIRED_RANGE, "family", "recovery"),
        keys=("policy", "target_ev"), estimates="PREDICTED_RANGE", needs_policies=True,
    ),
    Content(
        "prediction_check",
        "The predictor's ν beside that of DFT.",
        "What the predictor said before any SCF, and whether ν by DFT lies in its interval. Rank correlation: Spearman's ρ between the two over the policies at a target, three or "
        "more: whether the predictor could have chosen the policy.",
        "off_policy.prediction_check_table", ("evaluation", "predictions"), (*_DESIRED_RANGE, "family", "recovery"),
        keys=("policy", "target_ev", "predicted_nu_pct", "predicted_nu_pct_low", "predicted_nu_pct_high", "nu_pct", "nu_pct_low", "nu_pct_high", "prediction",
              "rank_correlation", "rank_correlation_low", "rank_correlation_high"),
        needs_policies=True,
    ),
    Content(
        "confirmation",
        "Hits, confirmed and withdrawn.",
        "A hit is a design whose gap lies within the window around its own policy's target. It is computed again with twice as many k points "
        "along each axis and the family's recommended cutoffs: confirmed if the gap still lies there, withdrawn if not. "
        "Difference: the finer gap less the first.",
        "confirmed_hits.confirmation_table", ("confirmation",), ("policies", "confidence"),
        keys=("policy", "target_ev", "hits", "confirmed", "withdrawn", "unanswered", "confirmed_pct", "low", "high", "mean_difference_ev",
         "largest_difference_ev"),
        needs_confirmation=True,
    ),
    Content(
        "campaign_readiness",
        "The campaign before its first SCF.",
        "What is known of the wanted gaps before anything is spent, and what the screen of the first round promises, if its probabilities are right: the "
        "predictor has seen no design yet. Unscreened: a design drawn from all that are up for choice.",
        "campaign.readiness_table", ("labels", "campaign_first", "campaign_held_out"), ("campaign", "confidence"),
        keys=("what", "value", "low", "high", "unit", "note"), needs_campaign=True,
    ),
    Content(
        "campaign",
        "The campaign, round by round.",
        "Audited designs are drawn by lot from those that the screen would have dropped; what it misses is estimated from them. "
        "Hits per 100 SCFs: of the designs that the screen chose, and of a design drawn from all that were up for choice. Acceleration: the first over "
        "the second (matbench-discovery's discovery acceleration factor). Recall: share of the hits among all that were up for choice which the screen chose; in "
        "brackets after it, the largest that so few SCFs could have had. Promised: hits that the predictor expected. CPU: wall time of all single-core SCFs of designs, the finer ones of "
        "hits included; training and screening are not in it.",
        "campaign.campaign_table", _CAMPAIGN, ("campaign", *_SAMPLING),
        keys=("round", "proposed", "candidates", "scfs", "audited", "converged", "hits", "confirmed"), needs_campaign=True,
    ),
    Content(
        "campaign_baselines",
        "The campaign beside designs that no screen chose.",
        "Baselines: the distinct designs of policies of this run on skeletons of the campaign that its evaluation computed, judged by the campaign's wishes. CPU: wall time of the "
        "single-core SCFs of designs, failed ones included, the finer SCFs of hits not; that of a design that the cache answered counts as when it was computed.",
        "baselines.baselines_table", (*_CAMPAIGN, "campaign_skeletons", "evaluation", "design_scf", "stability"), ("campaign", "baselines", *_SAMPLING),
        keys=("designs", "scfs", "hits", "hits_per_100", "hits_per_100_low", "hits_per_100_high", "cpu_per_hit_s", "cpu_per_hit_s_low", "cpu_per_hit_s_high"),
        needs_campaign=True, needs_baselines=True,
    ),
    Content(
        "campaign_found",
        "The hits of the campaign.",
        "Confirmed hits come first, then those lowest above the hull; nothing is relaxed. “As 2”: the same crystal as that of rank 2 by pymatgen's StructureMatcher. Nearest known "
        "crystal: that of the run's data with the least earth mover's distance between compositions over Pettifor's Mendeleev numbers (ElMD; 1: every atom one place further in that order); the same crystal: StructureMatcher says so. CPU: "
        "wall time of the single-core SCFs, the finer one included.",
        "campaign.hits_table", ("campaign_found",), ("campaign",),
        keys=("rank", "formula", "skeleton", "band_gap", "verdict", "confirmed_band_gap", "formation_energy_per_atom", "energy_above_hull", "hull_flag", "same_as_rank",
              "novel", "nearest_crystal", "nearest_formula", "composition_distance", "same_structure", "cpu_s"), needs_campaign=True,
    ),
    Content(
        "stability",
        "Energy above the hull; stable, unique, novel designs.",
        "The hull is that of the labelled crystals and elements of this run, unrelaxed. A design without a competing compound "
        "among them, or with an isolated atom as reference, is flagged: it is not counted as stable and not in the mean.",
        "estimates.stability_table", _HULL, (*_POLICIES, "stable_ev_per_atom"),
        keys=("policy",), estimates="STABILITY",
    ),
    Content(
        "gap_error",
        "Gaps of the data crystals against those of the source.",
        "Error: gap of our SCF (clipped at 0) less the gap the source gives, for the crystals that have both.",
        "estimates.gap_error_table", ("crystals", "labels"), _SAMPLING,
        keys=("split",), estimates="GAP_ERROR", needs_labels=True,
    ),
    Content(
        "policy_tests",
        "Pairs of policies on the same skeletons.",
        "Difference: first less second, with a paired bootstrap interval. p: two-sided p value of no difference between the "
        "trained policies, from swapping their designs of a skeleton: the share of swaps whose difference is at least as large (≤: the smallest p "
        "that the test can give). "
        "p_fdr: after Benjamini and Hochberg, over all pairs of the metric.",
        "comparisons.policy_tests", _DESIGNS, _DESIRED_RANGE,
        keys=("first", "second", "metric", "unit", "target_ev", "difference", "low", "high", "p", "p_fdr", "p_floor", "test"),
    ),
    Content(
        "outcomes",
        "How the designs ended.",
        "Every design of every policy and seed by the outcome of its SCF; the CSV has the same for the designs with each element.",
        "failures.outcome_table", ("evaluation", "design_scf"), ("policies", "confidence"),
        keys=("policy", "element", "outcome", "n", "n_designs", "share_pct", "low", "high"),
    ),
    Content(
        "designs_over_training",
        "Designs over training.",
        "A row is a snapshot of a policy's weights, or at its last step the finished policy. No SCF is run for a snapshot: the outcome of a "
        "design is known if it is invalid, or if a finished policy fills the same skeleton alike. ν at least counts the others as outside "
        "the desired range of the policy's own target, ν at most as inside.",
        "learning_curve.designs_over_training", (*_DESIGNS, "snapshots"), (*_POLICIES, "window_ev", "training_steps", "snapshot_steps"),
        keys=("policy", "target_ev", "step"), estimates="LEARNING_CURVE", needs_snapshots=True,
    ),
    Content(
        "paper_comparison",
        "The paper's Tables 1 to 4 and this run, cell by cell.",
        "Verdict: where the paper's value lies against our interval. missing: this run has no such policy, or no such number.",
        "comparisons.paper_comparison", ("assessments", *_DESIGNS), (*_POLICIES, "training_steps"),
        keys=("paper_table", "row", "metric", "paper", "ours", "low", "high", "n", "seeds", "verdict", "note"),
    ),
)  # fmt: skip

FIGURES = (
    Content(
        "figure2",
        "Figure 2. What the SCFs of the designs tell.",
        "a: ν, designs in the desired range. b: κ, those of them whose true crystal lies outside it. c, d: earth mover's distance "
        "of gaps and formation energies from the validation set. e: mean formation energy.",
        "figures.figure2", _DESIGNS, _DESIRED_RANGE,
        runs="ordinary",
    ),
    Content(
        "figure3",
        "Figure 3. Designs in the desired range whose true crystals are outside it.",
        "For each target, the designs of its conditional policies that moved the gap farthest into the range, one per composition.",
        "crystal_pictures.figure3", ("evaluation", "crystals"), ("policies", "window_ev"),
        needs_labels=True,
    ),
    Content(
        "figure4",
        "Figure 4. Mean gap of the designs.",
        "Of the designs with a converged SCF; the line is the mean of the validation labels.",
        "figures.figure4", _DESIGNS, _POLICIES,
        needs_ordinary=True,
    ),
    Content(
        "figure5",
        "Figure 5. Distributions of the labels.",
        "Gap, total energy of the cell and formation energy of training and validation crystals.",
        "distributions.figure5", ("labels",), ("confidence",),
        needs_labels=True,
    ),
    Content(
        "figure6",
        "Figure 6. As Figure 2, with the total energy in the reward.",
        "c-CQL with the setting α₁ = 1, α₂ = 5, β = 1 of eq. 16 at every target.",
        "figures.figure2", _DESIGNS, _DESIRED_RANGE,
        runs="sweep", needs_ordinary=True,
    ),
    Content(
        "figure7",
        "Figure 7. Settings of the reward with the total energy, target 1.12 eV.",
        "a: mean gap. b: mean formation energy. c, d: earth mover's distances from the validation set. e: ν. Rows: α₁-α₂-β of eq. 16.",
        "figures.figure7", _DESIGNS, (*_POLICIES, "window_ev"),
        runs="sweep",
    ),
    Content(
        "figure8",
        "Figure 8. Settings of the reward with the total energy, target 4 eV.",
        "As Figure 7.",
        "figures.figure8", _DESIGNS, (*_POLICIES, "window_ev"),
        runs="sweep",
    ),
    Content(
        "campaign_hits",
        "Hits of the campaign over the SCFs spent.",
        "Each round spends its SCFs on the likeliest designs first and on the audited ones last. Dashed: what the predictor promised. Grey: the same number of SCFs on designs "
        "drawn from all that were up for choice, by the audit's estimate and its interval.",
        "campaign.campaign_figure", _CAMPAIGN, ("campaign", *_SAMPLING),
        needs_campaign=True,
    ),
    Content(
        "outcomes_by_element",
        "Failures by element.",
        "Share of the valid designs with the element whose SCF failed, over all policies; a grey field has fewer than 10 of them.",
        "periodic_table.outcomes_by_element", ("evaluation",), ("policies",),
    ),
    Content(
        "learning_curve",
        "Designs over training.",
        "a: validity, b: accuracy of the designs of snapshots of the weights. From c on: ν of the policies of each target, between the "
        "line and the dashed line: no SCF is run for a snapshot, and the height of the band is the share of designs without an outcome.",
        "learning_curve.learning_curve", (*_DESIGNS, "snapshots"), (*_POLICIES, "window_ev", "training_steps", "snapshot_steps"),
        needs_snapshots=True, needs_ordinary=True,
    ),
)  # fmt: skip


def tables_of(config: Config) -> list[Content]:
    """The tables of a run."""
    return [content for content in TABLES if _belongs(content, config)]


def figures_of(config: Config) -> list[Content]:
    """The figures of a run."""
    return [content for content in FIGURES if _belongs(content, config)]


def settings_of(config: Config) -> dict[str, Any]:
    """Settings that tables and figures depend on besides their files, by name, as plain data that Snakemake can compare."""
    specs, evaluation = config.policy_specs(), config.evaluation
    targets = {spec.target_ev for spec in specs.values() if spec.target_ev is not None}
    return {
        "policies": {name: spec.to_dict() for name, spec in specs.items()} | dict.fromkeys(config.external),
        "bootstrap_samples": evaluation.bootstrap_samples,
        "confidence": evaluation.confidence,
        "window_ev": evaluation.window_ev,
        "targets_ev": sorted({*targets, *evaluation.targets_ev} or config.policies.targets_ev),
        "stable_ev_per_atom": evaluation.stable_ev_per_atom,
        "training_steps": config.training.steps,
        "snapshot_steps": list(config.training.snapshot_steps),
        "sample": evaluation.sample,
        "campaign": config.campaign.wishes,
        "family": config.dft.family,
        "recovery": config.dft.recovery,
        "baselines": list(config.campaign.baselines),
    }


def content(name: str) -> Content:
    """The table or figure with this name.

    Raises:
        KeyError: there is none.
    """
    return {entry.name: entry for entry in (*TABLES, *FIGURES)}[name]


def make_table(
    name: str,
    config: Mapping[str, Any],
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    caption: str | Path,
    **files: str | Path | Sequence[str | Path] | None,
) -> None:
    """Make a table of a run.

    Args:
        name: name of the entry.
        config: configuration of the run, as plain data.
        csv, markdown, latex, caption: files to write.
        files: files of the run by name, at least the entry's `inputs`; None for one that the run does not have.

    Raises:
        XtalrlError: a file cannot be read, or lacks the designs of a policy.
    """
    table, sample = _made(name, config, files), validate(config).evaluation.sample
    if sample and content(name).reads_scfs:
        table = table.noting(sample)
    table.write(csv=csv, markdown=markdown, latex=latex, caption=caption)


def make_figure(
    name: str,
    config: Mapping[str, Any],
    csv: str | Path,
    png: str | Path,
    pdf: str | Path,
    **files: str | Path | Sequence[str | Path] | None,
) -> None:
    """Draw a figure of a run.

    Args:
        name: name of the entry.
        config: configuration of the run, as plain data.
        csv, png, pdf: files to write.
        files: as in `make_table`.

    Raises:
        XtalrlError: a file cannot be read, or lacks the designs of a policy.
    """
    _made(name, config, files).write(csv=csv, png=png, pdf=pdf)


def _made(name: str, config: Mapping[str, Any], files: Files) -> Any:
    """The `Table` or `Drawing` of an entry."""
    from xtalrl.report.results import Results, scoring_of

    settings = validate(config)
    return content(name).function(Results.of(settings, files), scoring_of(settings))


def render_captions() -> dict[str, str]:
    """The captions of `snakemake --report` (workflow/report/{name}.rst), by name of the table or figure."""
    return {entry.name: f"**{entry.title}** {entry.caption}\n" for entry in (*TABLES, *FIGURES)}


def _belongs(entry: Content, config: Config) -> bool:
    specs = config.policy_specs().values()
    reads_designs = not {"evaluation", "assessments"}.isdisjoint(entry.inputs)
    has_labels = bool(specs or config.labels.path or config.campaign.is_on)
    has_ordinary = bool(config.external) or any(not spec.in_sweep for spec in specs)
    has_snapshots = bool(config.training.snapshot_steps) and any(spec.is_learned for spec in specs)
    return (
        entry.runs in ("all", "sweep" if config.sweep.settings else "ordinary")
        and (has_labels or not entry.needs_labels)
        and (has_snapshots or not entry.needs_snapshots)
        and (config.evaluation.confirm or not entry.needs_confirmation)
        and (config.campaign.is_on or not entry.needs_campaign)
        and (bool(config.campaign.baselines) or not entry.needs_baselines)
        and (bool(specs) or not entry.needs_policies)
        and (has_ordinary or not entry.needs_ordinary)
        and (bool(specs or config.external) or not reads_designs)  # A run may consist of a campaign alone.
    )
