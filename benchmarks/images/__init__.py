"""Image classification: data sets, metrics, training and the study of heads. `README.md` says where HyperKvasir comes from."""
