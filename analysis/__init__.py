"""From the ledger to the answer: rows → results → tables, words → report, figures, page. Reads only the store."""
