"""The report, from result files alone."""


rule make_report:
    input:
        rejected=f"{RESULTS}/structures/rejected.parquet",
        graph_failures=(
            f"{RESULTS}/structures/graph_failures.parquet" if POLICIES else []
        ),
        scf_outcomes=(
            f"{RESULTS}/scf/outcomes.parquet"
            if POLICIES and not cfg.labels.path
            else []
        ),
        crystals=f"{RESULTS}/structures/crystals.parquet",
        external_crystals=external_sets(f"{RESULTS}/external/{{set}}/crystals.parquet"),
        external_rejected=external_sets(f"{RESULTS}/external/{{set}}/rejected.parquet"),
        references=reference_energies,
        reference_outcomes=(
            f"{RESULTS}/references/outcomes.parquet"
            if POLICIES and not cfg.references.energies
            else []
        ),
        labels=true_labels,
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
        stability=f"{RESULTS}/evaluation/stability.parquet",
        design_outcomes=f"{RESULTS}/evaluation/outcomes.parquet",
        campaign_hits=f"{RESULTS}/campaign/hits.csv" if CAMPAIGN.is_on else [],
        tables=[table_files("csv"), table_files("txt")],
        figures=figure_files("png"),
        training=trained_runs(
            f"{RESULTS}/policies/{{policy}}/seed{{seed}}/training.csv"
        ),
    output:
        report=f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/make_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_report.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        config=cfg.of_the_result(),
    message:
        "Writing {output.report}"
    script:
        "../workflow/scripts/make_report.py"
