module re2

go 1.25.0

require github.com/grafana/regexp v0.0.0-20250905093917-f7b3be9d1853
