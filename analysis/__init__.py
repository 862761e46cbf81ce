"""From the ledger to the tables: rows → intervals → tables → report. Reads only configuration and store."""
