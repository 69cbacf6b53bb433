"""Everything that speaks SQL: tables, transactions, the ledger, storage of runs and groups, keys, migrations."""
