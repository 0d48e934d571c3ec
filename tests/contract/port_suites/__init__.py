"""What each port promises, as tests that its real adapter and its fake both run.

A suite is a class without a leading `Test`; a test module subclasses it and gives the fixture
`subject`.
"""
