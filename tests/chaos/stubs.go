//go:build linux

package main

import "context"

func diskFull(ctx context.Context, b *bench, r *result) error { return nil }
func damage(ctx context.Context, b *bench, r *result) error   { return nil }
func kill(ctx context.Context, b *bench, r *result) error     { return nil }
