"""Plan the SCFs of the crystals."""

from xtalrl.dft.requests import plan_crystal_scf
from xtalrl.workflow import job

with job(snakemake.log[0]):
    plan_crystal_scf(**snakemake.input, **snakemake.output, **snakemake.params)
