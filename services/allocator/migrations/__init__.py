"""Migrations of the allocator's database, oldest first under `versions`. Applied ones never change."""
