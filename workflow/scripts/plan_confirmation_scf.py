"""Plan the finer SCFs of the hits."""

from xtalrl.dft.requests import plan_confirmation_scf
from xtalrl.workflow import job

with job(snakemake.log[0]):
    plan_confirmation_scf(**snakemake.input, **snakemake.output, **snakemake.params)
