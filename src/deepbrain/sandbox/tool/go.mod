module deepbrain.dev/dbc-tool

go 1.26
