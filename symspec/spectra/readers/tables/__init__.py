"""Readers of tables as chemists have them: text, Excel, JCAMP-DX."""
