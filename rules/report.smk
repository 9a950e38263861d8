"""The report, made from result files alone."""


rule make_report:
    input:
        f"{RESULTS}/structures/rejected.parquet",
        f"{RESULTS}/structures/graph_failures.parquet" if POLICIES else [],
        (f"{RESULTS}/scf/outcomes.parquet" if POLICIES and not cfg.labels.path else []),
        f"{RESULTS}/structures/crystals.parquet",
        external_sets(f"{RESULTS}/external/{{set}}/crystals.parquet"),
        external_sets(f"{RESULTS}/external/{{set}}/rejected.parquet"),
        reference_energies,
        (
            f"{RESULTS}/references/outcomes.parquet"
            if POLICIES and not cfg.references.energies
            else []
        ),
        true_labels,
        f"{RESULTS}/evaluation/evaluation.parquet",
        f"{RESULTS}/evaluation/stability.parquet",
        f"{RESULTS}/evaluation/outcomes.parquet",
        f"{RESULTS}/campaign/hits.csv" if CAMPAIGN.is_on else [],
        [table_files("csv"), table_files("txt")],
        figure_files("png"),
        trained_runs(f"{RESULTS}/policies/{{policy}}/seed{{seed}}/training.csv"),
    output:
        report=report(
            f"{RESULTS}/report.html",
            caption="../workflow/report/report.rst",
            category="Report",
            labels={"page": "Report"},
        ),
    log:
        f"{RESULTS}/logs/make_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_report.tsv"
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        cfg.of_the_result(),
        call=unrecorded("xtalrl.report.html.make_report"),
        results=unrecorded(RESULTS),
        config=unrecorded(config),
    message:
        "Writing {output.report}"
    script:
        "../workflow/scripts/call.py"
