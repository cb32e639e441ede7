"""Why did it die, and what helps: Evidence → Cause → Remedy. Pure: tables are data, decisions can be replayed."""
