"""From the ledger to the answer: rows, results, tables, sentences, figures and the page. Reads only the store."""
