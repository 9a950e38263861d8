"""The tables, from result files alone; xtalrl.report.contents lists them."""

# What became of the designs; every table and figure of policies but Table 1 is made from these.
DESIGN_RESULTS = {
    "evaluation": f"{RESULTS}/evaluation/evaluation.parquet",
    "labels": true_labels,
    "stability": f"{RESULTS}/evaluation/stability.parquet",
}


localrules:
    make_table1,
    make_table2,
    make_table3,
    make_table4,
    make_desired_range_table,
    make_stability_table,
    make_gap_error_table,
    make_policy_tests,
    make_outcome_table,
    make_paper_comparison,


rule make_table1:
    input:
        assessments=f"{RESULTS}/designs/assessments.parquet",
    output:
        csv=report(
            f"{RESULTS}/tables/table1_composition.csv",
            caption="../workflow/report/table1_composition.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/table1_composition.md",
        latex=f"{RESULTS}/tables/table1_composition.tex",
    log:
        f"{RESULTS}/logs/make_table1.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_table1.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
    message:
        "Making Table 1"
    script:
        "../workflow/scripts/make_composition_table.py"


rule make_table2:
    input:
        **DESIGN_RESULTS,
    output:
        csv=report(
            f"{RESULTS}/tables/table2_dft_success.csv",
            caption="../workflow/report/table2_dft_success.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/table2_dft_success.md",
        latex=f"{RESULTS}/tables/table2_dft_success.tex",
    log:
        f"{RESULTS}/logs/make_table2.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_table2.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        number=2,
        policies=ROWS,
    message:
        "Making Table 2"
    script:
        "../workflow/scripts/make_paper_table.py"


rule make_table3:
    input:
        **DESIGN_RESULTS,
    output:
        csv=report(
            f"{RESULTS}/tables/table3_settings_1.12ev.csv",
            caption="../workflow/report/table3_settings_1.12ev.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/table3_settings_1.12ev.md",
        latex=f"{RESULTS}/tables/table3_settings_1.12ev.tex",
    log:
        f"{RESULTS}/logs/make_table3.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_table3.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        number=3,
        policies=ROWS,
    message:
        "Making Table 3"
    script:
        "../workflow/scripts/make_paper_table.py"


rule make_table4:
    input:
        **DESIGN_RESULTS,
    output:
        csv=report(
            f"{RESULTS}/tables/table4_settings_4ev.csv",
            caption="../workflow/report/table4_settings_4ev.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/table4_settings_4ev.md",
        latex=f"{RESULTS}/tables/table4_settings_4ev.tex",
    log:
        f"{RESULTS}/logs/make_table4.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_table4.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        number=4,
        policies=ROWS,
    message:
        "Making Table 4"
    script:
        "../workflow/scripts/make_paper_table.py"


rule make_desired_range_table:
    input:
        **DESIGN_RESULTS,
    output:
        csv=report(
            f"{RESULTS}/tables/desired_range.csv",
            caption="../workflow/report/desired_range.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/desired_range.md",
        latex=f"{RESULTS}/tables/desired_range.tex",
    log:
        f"{RESULTS}/logs/make_desired_range_table.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_desired_range_table.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
        targets_ev=TARGETS,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Making the table of the desired range"
    script:
        "../workflow/scripts/make_desired_range_table.py"


rule make_stability_table:
    input:
        **DESIGN_RESULTS,
    output:
        csv=report(
            f"{RESULTS}/tables/stability.csv",
            caption="../workflow/report/stability.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/stability.md",
        latex=f"{RESULTS}/tables/stability.tex",
    log:
        f"{RESULTS}/logs/make_stability_table.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_stability_table.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
        threshold_ev_per_atom=cfg.evaluation.stable_ev_per_atom,
    message:
        "Making the table of energies above the hull"
    script:
        "../workflow/scripts/make_stability_table.py"


rule make_gap_error_table:
    input:
        crystals=f"{RESULTS}/structures/crystals.parquet",
        labels=f"{RESULTS}/labels.parquet",
    output:
        csv=report(
            f"{RESULTS}/tables/gap_error.csv",
            caption="../workflow/report/gap_error.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/gap_error.md",
        latex=f"{RESULTS}/tables/gap_error.tex",
    log:
        f"{RESULTS}/logs/make_gap_error_table.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_gap_error_table.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
    message:
        "Comparing gaps with those of the source"
    script:
        "../workflow/scripts/make_gap_error_table.py"


rule make_policy_tests:
    input:
        **DESIGN_RESULTS,
    output:
        csv=report(
            f"{RESULTS}/tables/policy_tests.csv",
            caption="../workflow/report/policy_tests.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/policy_tests.md",
        latex=f"{RESULTS}/tables/policy_tests.tex",
    log:
        f"{RESULTS}/logs/make_policy_tests.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_policy_tests.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
        targets_ev=TARGETS,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Testing pairs of policies"
    script:
        "../workflow/scripts/make_policy_tests.py"


rule make_outcome_table:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
    output:
        csv=report(
            f"{RESULTS}/tables/outcomes.csv",
            caption="../workflow/report/outcomes.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/outcomes.md",
        latex=f"{RESULTS}/tables/outcomes.tex",
    log:
        f"{RESULTS}/logs/make_outcome_table.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_outcome_table.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        policies=ROWS,
        confidence=cfg.evaluation.confidence,
    message:
        "Counting the outcomes of the designs"
    script:
        "../workflow/scripts/make_outcome_table.py"


rule make_paper_comparison:
    input:
        **DESIGN_RESULTS,
    output:
        csv=report(
            f"{RESULTS}/tables/paper_comparison.csv",
            caption="../workflow/report/paper_comparison.rst",
            category="Tables",
        ),
        markdown=f"{RESULTS}/tables/paper_comparison.md",
        latex=f"{RESULTS}/tables/paper_comparison.tex",
    log:
        f"{RESULTS}/logs/make_paper_comparison.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_paper_comparison.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
        training_steps=cfg.training.steps,
    message:
        "Comparing with the paper"
    script:
        "../workflow/scripts/make_paper_comparison.py"
