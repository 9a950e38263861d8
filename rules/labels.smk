"""Reference energies, formation energies (eq. 15) and gaps; computed, or imported from published tables."""

if cfg.references.energies:

    checkpoint import_references:
        input:
            energies=cfg.references.energies,
            family=FAMILY if cfg.references.protocol else [],
            outcomes=(
                f"{RESULTS}/references/outcomes.parquet"
                if cfg.references.protocol
                else []
            ),
        output:
            references=f"{RESULTS}/references.parquet",
        log:
            f"{RESULTS}/logs/import_references.log",
        benchmark:
            f"{RESULTS}/benchmarks/import_references.tsv"
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            call=unrecorded("xtalrl.dft.references.import_references"),
            protocol=cfg.references.protocol,
        message:
            "Importing reference energies from {input.energies}"
        script:
            "../workflow/scripts/call.py"

else:

    checkpoint assemble_references:
        input:
            outcomes=f"{RESULTS}/references/outcomes.parquet",
        output:
            references=f"{RESULTS}/references.parquet",
        log:
            f"{RESULTS}/logs/assemble_references.log",
        benchmark:
            f"{RESULTS}/benchmarks/assemble_references.tsv"
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            call=unrecorded("xtalrl.dft.references.assemble_references"),
        message:
            "Assembling the reference energies"
        script:
            "../workflow/scripts/call.py"


if cfg.labels.path == LABELS_OF_SOURCE:

    checkpoint take_source_labels:
        input:
            crystals=f"{RESULTS}/structures/crystals.parquet",
        output:
            labels=f"{RESULTS}/labels.parquet",
        log:
            f"{RESULTS}/logs/take_source_labels.log",
        benchmark:
            f"{RESULTS}/benchmarks/take_source_labels.tsv"
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            call=unrecorded("xtalrl.dft.labels.take_source_labels"),
        message:
            "Taking the gaps and formation energies of the structures' source"
        script:
            "../workflow/scripts/call.py"

elif cfg.labels.path:

    checkpoint import_labels:
        input:
            crystals=f"{RESULTS}/structures/crystals.parquet",
            tables=label_tables,
            # Needed for tables with total energies but without formation energies.
            references=(
                f"{RESULTS}/references.parquet" if cfg.references.energies else []
            ),
            family=FAMILY if cfg.references.protocol else [],
        output:
            labels=f"{RESULTS}/labels.parquet",
        log:
            f"{RESULTS}/logs/import_labels.log",
        benchmark:
            f"{RESULTS}/benchmarks/import_labels.tsv"
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            call=unrecorded("xtalrl.dft.labels.import_labels"),
            protocol=cfg.references.protocol,
        message:
            "Importing labels from {input.tables}"
        script:
            "../workflow/scripts/call.py"

else:

    checkpoint label_crystals:
        input:
            crystals=f"{RESULTS}/structures/crystals.parquet",
            outcomes=f"{RESULTS}/scf/outcomes.parquet",
            references=matching_references,
        output:
            labels=f"{RESULTS}/labels.parquet",
        log:
            f"{RESULTS}/logs/label_crystals.log",
        benchmark:
            f"{RESULTS}/benchmarks/label_crystals.tsv"
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            call=unrecorded("xtalrl.dft.labels.label_crystals"),
        message:
            "Computing formation energies and collecting gaps"
        script:
            "../workflow/scripts/call.py"
