"""Judge the compositions of the designs."""

from xtalrl.metrics.composition import assess_designs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    assess_designs(
        designs=list(snakemake.input.designs),
        crystals=snakemake.input.crystals,
        formulas=snakemake.input.get("formulas") or None,
        assessments=snakemake.output.assessments,
        external_crystals=list(snakemake.input.external_crystals),
    )
