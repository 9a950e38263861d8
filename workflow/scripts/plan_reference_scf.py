"""Plan the SCFs of the references."""

from xtalrl.dft.requests import plan_reference_scf
from xtalrl.workflow import job

with job(snakemake.log[0]):
    plan_reference_scf(**snakemake.input, **snakemake.output, **snakemake.params)
