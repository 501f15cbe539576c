from .case import Case as Case, case_schema as case_schema, load_case as load_case, parse_case as parse_case
